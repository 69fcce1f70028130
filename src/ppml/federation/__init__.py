"""Federated training on Flower; the only package that imports it."""
