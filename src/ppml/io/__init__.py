"""Files that are complete or absent, canonical JSON, digests."""
