"""The commands of `client`, a file each."""
