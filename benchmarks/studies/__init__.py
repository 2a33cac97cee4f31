"""Our own measured claims, each against a named baseline."""
