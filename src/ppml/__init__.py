"""Privacy-preserving machine learning, compared on real data and audited."""
