"""Reading, checking and splitting labelled data."""
