"""Check a repository before Triton starts: `python3 -m tritonkit.repository.signing REPOSITORY KEY.pub [MODEL…]`."""

from __future__ import annotations

import sys
from pathlib import Path

from tritonkit.errors import CheckFailedError, TritonkitError
from tritonkit.repository.signing.check import check_signed, delete_python_caches


def main() -> int:
    """Check the models of the command line; exit code 1 if one is refused, 2 for an unusable key."""
    repository, public_key, *models = sys.argv[1:]
    try:
        delete_python_caches(Path(repository))
        check_signed(Path(repository), models, Path(public_key))
    except TritonkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, CheckFailedError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
