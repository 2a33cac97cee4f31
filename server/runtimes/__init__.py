"""The ways to run Triton: the pip wheel's binary, or a container."""
