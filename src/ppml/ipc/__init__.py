"""Child processes, and authenticated connections between them."""
