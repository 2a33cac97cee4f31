"""`train search`: trainings with other values of some keys of the configuration, as one Optuna study."""
