"""The jobs of the workflow: their command line, their settings, their records, and the fork server."""
