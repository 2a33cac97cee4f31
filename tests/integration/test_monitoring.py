"""The dashboard's questions, asked of a real Prometheus that reads the metrics of a real Triton."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
import yaml
from tritonclient.utils import InferenceServerException

from tests.programs import ROOT
from tests.serving import options_for, serving
from tritonkit.system import commands

MONITORING = ROOT / "deploy" / "monitoring"
PROGRAMS = ROOT / ".cache" / "prometheus" / "usr" / "bin"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboards" / "triton.json").read_text())
QUESTIONS = [(panel["title"], one["expr"]) for panel in DASHBOARD["panels"] for one in panel.get("targets", [])]
METRIC = re.compile(r"\bnv_\w+")
ABSENT_HERE = re.compile(r"nv_(gpu|energy|cache)_")
"""Metrics of a machine with a GPU, and of a server with a cache."""
WITHIN_S = 20.0


@dataclass(frozen=True)
class Monitored:
    """A Prometheus that reads a Triton, and what that Triton says itself."""

    url: str
    metrics: str

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an expression gives now. Fails with Prometheus's words where it cannot be parsed."""
        expression = expression.replace("$__rate_interval", "10s").replace("$model", ".*")
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=10) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            pytest.fail(f"{expression}: {error.read().decode()}")
        found: list[dict[str, Any]] = document["data"]["result"]
        return found

    def numbers(self, expression: str) -> list[float]:
        """The values, without those that are no number: nothing over nothing."""
        values = [float(row["value"][1]) for row in self.ask(expression)]
        return [value for value in values if np.isfinite(value)]


@pytest.fixture(scope="module")
def programs() -> Path:
    fetched = subprocess.run([str(ROOT / "scripts" / "fetch_prometheus.sh")], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"Prometheus cannot be had from Debian here: {fetched.stderr.strip()}")
    return PROGRAMS


@pytest.fixture(scope="module")
def triton_ports(exported_once: Path) -> Iterator[tuple[int, int]]:
    """HTTP and metrics port of a real Triton."""
    with serving(options_for(exported_once)) as server:
        yield server.options.http_port, server.options.metrics_port


@pytest.fixture(scope="module")
def monitored(
    programs: Path, triton_ports: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{triton_ports[1]}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = commands.free_ports(1)
    arguments = {"config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data"}
    command = [f"--{name}={value}" for name, value in arguments.items()]
    with (folder / "log").open("wb") as log:
        prometheus = subprocess.Popen(
            [str(programs / "prometheus"), *command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        yield watched(Monitored(f"http://127.0.0.1:{port}", ""), *triton_ports)
    finally:
        prometheus.terminate()
        prometheus.wait()


def watched(server: Monitored, http: int, metrics: int) -> Monitored:
    """Ask Triton, rightly and wrongly, until Prometheus has seen both more than once."""
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{http}")
    give_up = time.monotonic() + WITHIN_S
    seen: list[float] = []
    while not (seen and max(seen) > 0) and time.monotonic() < give_up:
        client.infer("pets", [image(32)])
        with pytest.raises(InferenceServerException, match="unexpected shape"):
            client.infer("pets", [image(31)])
        time.sleep(0.2)
        with suppress(urllib.error.URLError):  # not listening yet
            seen = server.numbers("rate(nv_inference_request_success[10s])")
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
        return Monitored(server.url, answer.read().decode())


def image(side: int) -> tritonclient.http.InferInput:
    tensor = tritonclient.http.InferInput("image", [1, side, side, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, side, side, 3), np.uint8))
    return tensor


def test_prometheus_accepts_the_configuration(programs: Path) -> None:
    checked = subprocess.run(
        [str(programs / "promtool"), "check", "config", str(MONITORING / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("title", "question"), QUESTIONS, ids=[f"{title}-{i}" for i, (title, _) in enumerate(QUESTIONS)]
)
def test_dashboard_question_is_answered_when_triton_has_the_metric(
    monitored: Monitored, title: str, question: str
) -> None:
    answered = monitored.numbers(question)
    if ABSENT_HERE.search(question):
        assert answered == []
    else:
        assert answered, title


def test_dashboard_counts_what_was_asked(monitored: Monitored) -> None:
    questions = dict(QUESTIONS)
    assert monitored.numbers(questions["Mean batch size"]) == [1.0]
    assert max(monitored.numbers(questions["Requests"])) > 0


def test_metrics_of_the_dashboard_exist(monitored: Monitored) -> None:
    named = {name for _, question in QUESTIONS for name in METRIC.findall(question)}
    assert len(named) > 15
    there = set(METRIC.findall(monitored.metrics))
    assert {name for name in named - there if not ABSENT_HERE.match(name)} == set()
    documented = set(METRIC.findall((ROOT / "docs" / "monitoring.md").read_text()))
    assert named <= documented


def test_grafana_finds_the_dashboard_and_its_source() -> None:
    source = yaml.safe_load((MONITORING / "provisioning" / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ][0]
    used = {one["datasource"]["uid"] for panel in DASHBOARD["panels"] for one in panel.get("targets", [])}
    assert used == {source["uid"]}
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((MONITORING / "provisioning" / "dashboards" / "triton.yml").read_text())["providers"][0]
    assert f"./deploy/monitoring/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
