"""Makes trained models smaller or faster: pruning, and fine-tuning for int8."""
