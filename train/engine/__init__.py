"""The training loop: optimisation, checkpoints, history and the run folder."""
