"""One module a rule: reads files, calls the domain, writes files."""
