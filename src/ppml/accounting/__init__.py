"""Privacy accounting: the epsilon of the mechanism that a training executed."""
