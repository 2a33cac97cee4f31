"""Studies of what `builder` exports: its cost, its speed as served, and the choice of the best."""
