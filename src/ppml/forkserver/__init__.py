"""Jobs that start fast: forked from a server process that has already imported the slow libraries."""
