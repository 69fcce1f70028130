"""Other engines for the same apps: Flower's simulation on Ray, and processes that talk over TLS."""
