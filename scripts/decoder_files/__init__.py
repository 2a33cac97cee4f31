"""Small pictures in every layout of every format, each with the pixels that its definition gives it."""
