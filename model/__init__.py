"""What a model is: its spec, preprocessing, checkpoint, golden images, tasks and runners."""
