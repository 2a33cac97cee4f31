"""Smaller and faster networks: pruning."""
