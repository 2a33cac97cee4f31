"""Self-labelling: a model labels images of which it is sure, and learns from them."""
