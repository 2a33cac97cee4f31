"""Signatures of published versions: what they cover, and how a repository is checked. `builder sign` makes them."""
