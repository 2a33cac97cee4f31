"""`builder`: export a checkpoint to verified artifacts in a model repository."""

import model  # noqa: F401 - it sets environment variables that gRPC reads at import
