"""A set of a million names in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

_BYTES = 16
"""Of each name's digest: two of a million names have the same one with a chance of 1 in 10^26."""


class Names:
    """Names that are known. Each takes 16 bytes, where Python's own set of texts takes about 200."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        digests = bytearray()
        for name in names:
            digests += digest_of(name)
        self._sorted = np.sort(np.frombuffer(bytes(digests), f"S{_BYTES}"))

    def __contains__(self, name: str) -> bool:
        wanted = np.frombuffer(digest_of(name), f"S{_BYTES}")
        at = int(np.searchsorted(self._sorted, wanted)[0])
        return at < len(self._sorted) and bool(self._sorted[at] == wanted[0])

    def __len__(self) -> int:
        return len(self._sorted)

    def shared_with(self, other: Names) -> int:
        """How many names are in both."""
        return len(np.intersect1d(self._sorted, other._sorted))


def digest_of(name: str) -> bytes:
    """What stands for a name, 16 bytes."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()
