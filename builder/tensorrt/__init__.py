"""TensorRT plans: built strongly typed, each in a process of its own, with a proof of what came out."""
