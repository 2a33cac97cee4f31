"""`bench`: a running model becomes records, and records become reports."""
