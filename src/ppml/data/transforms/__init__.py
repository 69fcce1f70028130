"""Fixed features, made without any real record, for models that are trained on them instead of on images."""
