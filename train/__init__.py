"""`train`: a data folder and a YAML become a checkpoint."""
