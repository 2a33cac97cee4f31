"""`server`: a model repository becomes a running Triton."""
