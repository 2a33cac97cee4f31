"""What the builder puts beside a model so that it takes encoded pictures."""
