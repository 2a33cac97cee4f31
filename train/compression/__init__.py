"""Make trained models smaller or faster: fine-tuning for int8."""
