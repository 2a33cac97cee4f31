"""`server`: a model repository becomes a running Triton."""

import model  # noqa: F401 - it sets what gRPC reads when it is first imported, which this room may do
