"""Drift: compares pictures that a model answers now with the sketch of its reference images."""
