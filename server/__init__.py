"""`server`: run Triton on a model repository."""

import tritonkit  # noqa: F401 - it sets the variables that gRPC reads at its first import
