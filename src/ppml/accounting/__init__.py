"""From the mechanism that was executed to epsilon."""
