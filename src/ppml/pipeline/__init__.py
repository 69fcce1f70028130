"""The workflow: its stages, its files, and the decision which jobs run again."""
