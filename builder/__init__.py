"""`builder`: export a checkpoint to verified artifacts in a model repository."""

import tritonkit  # noqa: F401 - it sets environment variables that gRPC reads at import
