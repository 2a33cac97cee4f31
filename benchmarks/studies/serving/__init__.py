"""Studies of Triton against other servers."""
