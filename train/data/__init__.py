"""Reading, checking and splitting labelled data."""

SUMMARY_FILE = "data.json"
"""In the folder of the splits: counts, labels and the fingerprint of the data."""
