"""`config.pbtxt`: what Triton is told of a model, from typed values through its own protobuf, and back."""
