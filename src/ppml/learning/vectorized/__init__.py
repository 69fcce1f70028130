"""Several models trained in one pass, with the same bits as one after another."""
