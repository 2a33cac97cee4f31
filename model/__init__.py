"""The shared package: model spec, preprocessing, checkpoint, golden sample, tasks and runners."""

import os

# gRPC's fork handlers can abort the process or block forever. They are not needed: tritonkit forks only processes that
# use no server, such as torch's data loaders.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
