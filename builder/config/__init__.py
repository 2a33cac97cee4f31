"""Write `config.pbtxt` from typed values with Triton's own protobuf, and read it back."""
