"""Servers that `benchmarks/studies/serving/peers.py` compares Triton with: the same ONNX file, behind other frameworks.

Each takes the bytes of a picture by POST and answers with `{"class": 282, "probability": 0.38}`. Each reads the
environment variables ONNX_FILE, SIDE (pixels) and CROP (share of the picture's shorter side), and runs in an
environment of its own, made by `scripts/peers.sh`.
"""
