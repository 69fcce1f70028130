"""Sums of updates: one fixed-point codec, and what seals it."""
