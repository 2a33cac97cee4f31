"""Where pictures come from: what is given on the command line becomes one stream of them."""

from client.sources.ahead import fetched_ahead
from client.sources.finding import DEFAULT_EVERY, PictureStream, find

__all__ = ["DEFAULT_EVERY", "PictureStream", "fetched_ahead", "find"]
