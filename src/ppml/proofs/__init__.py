"""Zero-knowledge proofs of a norm bound on updates that are secret-shared between servers."""
