"""The larger commands of `train`, and their options."""
