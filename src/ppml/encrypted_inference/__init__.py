"""Prediction on encrypted images."""
