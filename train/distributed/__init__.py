"""Training by several processes: how many, how they start, and how they share the images."""
