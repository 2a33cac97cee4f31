"""What a model is: its spec, preprocessing, checkpoint, golden images, tasks and runners."""

import os

# gRPC's own preparation for a fork aborts the process, or waits for ever, when it comes at the wrong moment. The kit
# forks only what asks no server, such as torch's loaders of pictures.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
