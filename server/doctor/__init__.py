"""Checks, before the start, whether a repository can be served here; each finding has a fix."""
