"""Stores of packages: a package has a name and a semantic version, and is pushed and pulled by the store's address."""
