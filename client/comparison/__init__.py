"""Compare the answers of two models to the same images."""
