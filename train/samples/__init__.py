"""Rows and truths, for tasks of plug-ins."""
