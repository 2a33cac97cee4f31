"""ONNX graphs: export, reading, wiring and simulation."""
