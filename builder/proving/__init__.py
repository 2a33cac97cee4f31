"""The proof: an artifact is asked what its source is asked, and what is found is written down."""
