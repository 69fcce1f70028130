"""Vectorized training of several models, with the same bits as sequential training."""
