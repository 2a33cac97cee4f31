"""`builder`: a checkpoint becomes proven artifacts in a model repository."""

import model  # noqa: F401 - it sets what gRPC reads when it is first imported, which this room may do
