"""Pictures: from encoded bytes to uint8 images of a model's size."""
