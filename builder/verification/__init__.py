"""Verify an artifact: compare its outputs with those of its source, and write the verdict."""
