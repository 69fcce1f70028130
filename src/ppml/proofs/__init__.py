"""A norm bound that servers check without seeing an update."""
