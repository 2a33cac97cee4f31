"""Pipelines of a repository: models that call other models of it."""
