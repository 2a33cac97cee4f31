"""Logs a run: a confusion matrix for each epoch, TensorBoard, and MLflow."""
