"""Records of benchmarks: the immutable result of a run, read and written as JSON."""
