"""The larger commands, and their options."""
