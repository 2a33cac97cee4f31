"""The source of a search model: an embedder, and a gallery that is searched in the graph."""
