"""Privacy audits: tests of the claims of a private training on its observed releases."""
