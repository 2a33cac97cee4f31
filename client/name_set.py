"""A set of a million names in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

_BYTES = 16
"""Bytes of a name's digest. The chance that two of a million names have the same digest is 1 in 10^26."""


class NameSet:
    """A set of names. A name takes 16 bytes; in Python's own set it takes about 200."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        digests = bytearray()
        for name in names:
            digests += name_digest(name)
        self._sorted = np.sort(np.frombuffer(bytes(digests), f"S{_BYTES}"))

    def __contains__(self, name: str) -> bool:
        key = np.frombuffer(name_digest(name), f"S{_BYTES}")
        index = int(np.searchsorted(self._sorted, key)[0])
        return index < len(self._sorted) and bool(self._sorted[index] == key[0])

    def __len__(self) -> int:
        return len(self._sorted)

    def count_shared(self, other: NameSet) -> int:
        """Count the names that are in both sets."""
        return len(np.intersect1d(self._sorted, other._sorted))


def name_digest(name: str) -> bytes:
    """Return the 16-byte digest of a name."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()
