"""Sources of images: the paths and addresses of a command become one stream of pictures."""

from client.sources.ahead import prefetch_content
from client.sources.finding import DEFAULT_FRAME_STEP, PictureStream, find_pictures

__all__ = ["DEFAULT_FRAME_STEP", "PictureStream", "find_pictures", "prefetch_content"]
