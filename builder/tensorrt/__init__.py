"""Build TensorRT plans, strongly typed, each in its own process, and check the precision of the result."""
