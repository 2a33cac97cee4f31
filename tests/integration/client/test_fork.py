"""A client after a fork: it answers, or raises an error at once."""

from __future__ import annotations

import json
from pathlib import Path

from tests.programs import run_python


def test_client_answers_or_is_refused_when_its_process_was_forked(served: str, served_http: str, photos: Path) -> None:
    ran = run_python(
        "-m", "tests.integration.client.forked_client", served, served_http, "resnet18", photos / "cat.jpg"
    )
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout)
    assert answers["new http"] == answers["parent"]
    for name in ("same http", "same grpc", "awaited", "stream"):
        assert answers[name].startswith("InputError: "), answers
        assert ": the client of " in answers[name], answers
    assert answers["new grpc"].startswith("InputError: "), answers
    assert "gRPC" in answers["new grpc"], answers
