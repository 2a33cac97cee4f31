"""Embeddings: vectors of images, what they say about a data set, and pages and files that show them."""
