"""Attacks on what the mechanisms release, and what they show."""
