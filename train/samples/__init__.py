"""A labelled sample: its picture, its part and its mask."""
