"""Tables and figures from the tidy files."""
