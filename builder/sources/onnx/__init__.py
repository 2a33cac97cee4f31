"""ONNX files of third parties as sources."""
