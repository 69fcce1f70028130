"""Fixed transforms of inputs; no private example decides them."""
