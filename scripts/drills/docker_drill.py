"""Python helpers of `scripts/docker_test.sh`: free ports, a Compose file for the host network, and comparisons."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml

from tritonkit.system.commands import free_ports

app = typer.Typer(add_completion=False)
TOLERANCE = 1e-5


@app.command()
def ports() -> None:
    """Print three unused ports of the loopback address: HTTP, gRPC, metrics."""
    print(*free_ports())


@app.command()
def host_network(http: int, grpc: int, metrics: int) -> None:
    """Move the service of a resolved Compose file (stdin) to the host network, on loopback addresses only."""
    document: dict[str, Any] = yaml.safe_load(sys.stdin)
    service = document["services"]["triton-cpu"]
    addresses = {"http": http, "grpc": grpc, "metrics": metrics}
    del service["ports"]
    service.pop("networks", None)
    service["network_mode"] = "host"
    service["build"]["network"] = "host"
    service["command"] = [f"--{kind}-address=127.0.0.1" for kind in addresses]
    service["command"] += [f"--{kind}-port={port}" for kind, port in addresses.items()]
    service["healthcheck"]["test"][-1] = f"http://127.0.0.1:{http}"
    service["healthcheck"]["interval"] = "1s"
    compose_file = {"version": document["version"], "services": {"triton-cpu": service}}
    json.dump(compose_file, sys.stdout, indent=1)


@app.command()
def tools_on_host_network() -> None:
    """Keep the services `train-cpu` and `builder-cpu` of a resolved Compose file (stdin), on the host network."""
    document: dict[str, Any] = yaml.safe_load(sys.stdin)
    services = {name: document["services"][name] for name in ("train-cpu", "builder-cpu")}
    for service in services.values():
        service.pop("networks", None)
        service["network_mode"] = "host"
        service["build"]["network"] = "host"
    json.dump({"version": document["version"], "services": services}, sys.stdout, indent=1)


@app.command()
def compare(expected: Path, served: Path) -> None:
    """Compare two documents of `client infer --json`: the same files, labels and scores to within 1e-5."""
    expected_scores, served_scores = (_scores(path) for path in (expected, served))
    if expected_scores.keys() != served_scores.keys() or not expected_scores:
        raise SystemExit(f"answers for {sorted(expected_scores)}, but {sorted(served_scores)}")
    largest = max(abs(expected_scores[key] - served_scores[key]) for key in expected_scores)
    if largest > TOLERANCE:
        raise SystemExit(f"scores differ by {largest:g}, more than {TOLERANCE:g}")
    print(f"{len(expected_scores)} scores agree to within {largest:.1g}")


@app.command()
def compare_encoded(served: Path, picture: str, answer: Path) -> None:
    """Compare the response of curl for an encoded image with `client infer --json`: equal scores to within 1e-5.

    answer: JSON and, right behind it, the probabilities as float32 (the binary tensor data extension).
    """
    content = answer.read_bytes()
    _, end = json.JSONDecoder().raw_decode(content.decode("latin-1"))
    scores = np.sort(np.frombuffer(content[end:], "<f4"))[::-1]
    expected = [score for (path, _), score in _scores(served).items() if Path(path).name == picture]
    if not expected or not np.allclose(scores[: len(expected)], expected, rtol=0, atol=TOLERANCE):
        raise SystemExit(f"{picture}: {expected}, but as an encoded picture {scores[: len(expected)].tolist()}")
    print(f"{len(expected)} scores of the encoded picture agree")


def _scores(path: Path) -> dict[tuple[str, str], float]:
    """Read probabilities by image path and label."""
    rows = json.loads(path.read_text())["rows"]
    return {(row["path"], entry["label"]): float(entry["probability"]) for row in rows for entry in row["top"]}


if __name__ == "__main__":
    app()
