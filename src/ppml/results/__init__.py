"""Results of runs as rows of tidy tables."""
