"""The learning-rate finder: a sweep of the rate, and a suggestion from its losses."""
