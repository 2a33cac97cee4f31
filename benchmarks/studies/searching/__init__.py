"""Studies of search models: the search step, unknown classes, and libraries of approximate search."""
