"""The Triton model that decodes images, which the builder publishes as `NAME_decode`."""
