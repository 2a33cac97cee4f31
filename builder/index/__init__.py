"""Search models: an embedder and a gallery in one ONNX graph (`builder index`)."""
