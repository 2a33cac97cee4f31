"""Fault drills: kill, cut and reload at full size."""
