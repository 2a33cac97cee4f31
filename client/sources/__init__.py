"""Sources of images: the paths and addresses of a command become one stream of pictures."""

from client.sources.picture_stream import DEFAULT_FRAME_STEP, PictureStream, find_pictures
from client.sources.prefetch import prefetch_content

__all__ = ["DEFAULT_FRAME_STEP", "PictureStream", "find_pictures", "prefetch_content"]
