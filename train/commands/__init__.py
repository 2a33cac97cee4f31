"""The commands of `train`, one file each."""
