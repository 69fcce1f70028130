"""Tables and figures from the tidy tables alone."""
