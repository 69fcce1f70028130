"""Predictions on encrypted images as rows of a tidy table."""

from __future__ import annotations

INFERENCES = (
    *("arm", "seed", "images", "plain_right", "sure", "bound", "singly", "degree", "modulus_bits"),
    *("right", "differ", "error", "error_share", "one_client", "one_server", "one_up", "one_down"),
    *("slots", "batch_client", "batch_server", "batch_up", "batch_down", "keys", "keys_client"),
)
"""Columns of ``inferences.csv``: a row an arm and seed; see :mod:`ppml.encrypted_inference.evaluation`."""
