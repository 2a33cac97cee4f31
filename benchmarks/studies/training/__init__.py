"""Studies of the trainer."""
