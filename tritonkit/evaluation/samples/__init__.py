"""A labelled sample: its image, its part and its mask."""
