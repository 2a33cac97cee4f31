"""`builder`: a checkpoint becomes proven artifacts in a model repository."""
