"""Each task from end to end: a trained model is exported with a passed verdict, and answers from a real Triton."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.fixture_types import Command, Ports
from train.engine.fit import FitResult

TOLD = {
    "multilabel": {"labels"},
    "embedding": {"embedding"},
    "mined": {"embedding"},
    "segmentation": {"size", "regions"},
    "heads": {"digit", "round"},
}


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.usefixtures("own_state")
def test_served_model_measures_and_answers_as_it_was_trained(
    run: FitResult, case: str, command: Command, free_ports: Ports, tmp_path: Path
) -> None:
    repository, ports = tmp_path / "repository", free_ports()
    published = document(command("builder", "export", run.checkpoint, "--repository", repository, "--json"))
    assert published["verdict"]["passed"]
    url = f"127.0.0.1:{ports[ports.index('--grpc-port') + 1]}"
    up = command("server", "up", "--repository", repository, *ports)
    assert up.exit_code == 0, up.output
    try:
        measured = [
            document(command("train", "test", run.checkpoint, *options, "--json"))["metrics"]
            for options in ((), ("--from", published["artifact"]), ("--url", url))
        ]
        picture = (run.run / "splits" / "test.csv").read_text().splitlines()[1].split(",")[0]
        answers = document(command("client", "infer", picture, "--model", "tiny", "--url", url, "--json"))
    finally:
        command("server", "down", "--grpc-port", url.rpartition(":")[2])
    for metrics in measured[1:]:
        assert metrics == pytest.approx(measured[0], abs=0.001)
    (row,) = answers["rows"]
    assert set(row) >= TOLD[case]
