"""Plots and image sheets of a training."""
