"""Columns of the results of encrypted inference."""

from __future__ import annotations

INFERENCE_COLUMNS = (
    *("arm", "seed", "images", "plain_right", "sure", "bound", "single_images", "degree", "modulus_bits"),
    *("right", "differ", "error", "error_share", "one_client", "one_server", "one_up", "one_down"),
    *("slots", "batch_client", "batch_server", "batch_up", "batch_down", "keys", "keys_client"),
)
"""Columns of ``inferences.csv``: one row per arm and seed; see :mod:`ppml.encrypted_inference.evaluation`."""
