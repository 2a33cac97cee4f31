"""Metrics of a model on labelled data."""
