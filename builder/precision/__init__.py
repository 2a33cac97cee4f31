"""The precision of a graph: fp16 and bf16 by casts, int8 by QDQ, and what hardware would make of them, on a CPU."""
