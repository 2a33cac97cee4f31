"""A client after a fork: it answers, or says at once that it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_client_answers_or_is_refused_when_its_process_was_forked(served: str, served_http: str, photos: Path) -> None:
    words = [sys.executable, "-m", "tests.client.forked_client", served, served_http, "resnet18", photos / "cat.jpg"]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["new http"] == found["parent"]
    for way in ("same http", "same grpc", "awaited", "stream"):
        assert found[way].startswith("InputError: the client of "), found
        assert "was opened in another process" in found[way]
    assert "gRPC does not work in this process, which was forked after gRPC was used" in found["new grpc"]
