"""`train`: trains a checkpoint from a data folder and a YAML configuration."""
