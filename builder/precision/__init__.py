"""Reduce the precision of a graph (fp16 and bf16 by casts, int8 by QDQ nodes), and simulate it on a CPU."""
