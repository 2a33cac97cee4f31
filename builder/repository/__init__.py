"""The model repository: publish a version, manage versions, and lint the repository."""
