"""Files and folders by address: `s3://`, `gs://`, `az://`, `https://`, `dvc://` and every other file system of fsspec.

`local_path` is the whole interface: it returns a path as it is, and for an address the path of a copy in the cache.
"""

from tritonkit.remotes.addresses import is_address
from tritonkit.remotes.cache import fetch_companions, local_path

__all__ = ["fetch_companions", "is_address", "local_path"]
