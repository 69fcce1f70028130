"""Aggregation of client updates: the fixed-point codec and the protocols that protect single updates."""
