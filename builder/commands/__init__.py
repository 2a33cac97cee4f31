"""The larger commands of `builder`, and their options."""
