"""Load on a served model: who sends when, and what is counted."""
