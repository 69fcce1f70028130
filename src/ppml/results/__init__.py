"""One run as rows of tidy tables, and files that are whole or absent."""
