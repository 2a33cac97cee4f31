"""Torch networks: backbones, heads, and third-party weights."""
