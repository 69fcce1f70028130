"""How jobs start: at once, from a process that holds the slow libraries, and how they end with who started them."""
