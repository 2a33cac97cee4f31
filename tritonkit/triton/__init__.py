"""Triton: connection, retries, transport, control and model configuration."""
