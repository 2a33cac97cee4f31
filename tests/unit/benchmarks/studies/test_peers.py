"""How the peers of Triton are measured: their packages, the closed loop, and the table of the documentation."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.serving.closed_loop import Endpoint, Slice, measure_slice
from benchmarks.studies.serving.peer_results import checks, summarize, write_table
from benchmarks.studies.serving.peer_servers import PEERS
from tests.errors import raises
from tests.programs import ROOT
from tritonkit.errors import InputError, UnreachableError

ANSWER_S = 0.01


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    numbers = count(1)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(ANSWER_S)
        self.send_response(503 if next(self.numbers) % 5 == 0 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_peers_have_the_libraries_that_triton_has() -> None:
    def pins(path: Path) -> dict[str, str]:
        found = dict(re.findall(r"^(numpy|onnxruntime|pillow)==(\S+)", path.read_text(), re.MULTILINE))
        assert found.keys() == {"numpy", "onnxruntime", "pillow"}
        return found

    requirements = ROOT / "requirements"
    assert {path.stem for path in (requirements / "peers").iterdir()} == {peer.package for peer in PEERS}
    locks = {path.stem: pins(path) for path in (requirements / "peers").glob("*.lock")}
    assert locks == {peer.package: pins(requirements / "triton.lock") for peer in PEERS}


def test_slice_counts_answers_and_failures_apart(address: str) -> None:
    found = measure_slice(Endpoint(address, "/", {}, b"picture"), connections=2, settle_s=0.05, seconds=0.2)
    assert found.p50_ms >= ANSWER_S * 1000
    assert 0 < found.requests_per_s <= 2 / ANSWER_S
    assert found.answered > found.requests_per_s * 0.2  # also those of the first 50 ms
    assert (found.answered + found.failed) // 5 == found.failed


def test_server_that_is_gone_is_an_error() -> None:
    with raises(UnreachableError, "server.unreachable", "127.0.0.1:1"):
        measure_slice(Endpoint("127.0.0.1:1", "/", {}, b""), connections=1, settle_s=0, seconds=0.1)


def record_of(rates: dict[int, tuple[float, float]]) -> tuple[dict[str, Any], dict[str, bool]]:
    """Requests a second of Triton and FastAPI by connections, each of two rounds, in a record with its checks."""
    levels = {
        connections: {
            name: [Slice(rate - 1, 1000 / rate, 9), Slice(rate + 1, 1000 / rate, 9)]
            for name, rate in zip(("Triton", "FastAPI"), pair, strict=True)
        }
        for connections, pair in rates.items()
    }
    levels[1]["in process"] = [Slice(100, 10, 9)]
    record = {
        **summarize(levels),
        "classes": {"Triton": (282, 0.38), "FastAPI": (282, 0.38)},
        "versions": {"FastAPI": "0.1"},
        "idle_cores": {"Triton": 0.0, "FastAPI": 0.01},
        "machine": {"cpu": "a CPU", "cores": 2, "python": "3.11.7"},
        "rounds": 2,
        "seconds": 1.0,
        "date": "2026-11-29",
    }
    return record, checks(record, levels)


@pytest.mark.parametrize(
    ("rates", "unmet"),
    [
        ({1: (95, 100), 8: (105, 100), 32: (105, 100)}, []),
        ({1: (94, 100), 8: (104, 100), 32: (105, 100)}, ["1 connections: 0.94", "8 connections: 1.04"]),
        ({1: (80, 80), 8: (105, 100), 32: (104, 100)}, ["32 connections: 1.04", "p50 at one connection: 1.25"]),
    ],
)
def test_checks_compare_medians(rates: dict[int, tuple[float, float]], unmet: list[str]) -> None:
    _, found = record_of(rates)
    failed = [sentence for sentence, is_met in found.items() if not is_met]
    assert len(failed) == len(unmet)
    assert all(part in sentence for part, sentence in zip(unmet, failed, strict=True))


def test_table_replaces_what_stands_between_the_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers -->\nold\n<!-- /peers -->\nafter\n")
    write_table(page, record_of({1: (95, 100), 8: (105, 100), 32: (105, 100)})[0])
    text = page.read_text()
    assert "old" not in text
    assert re.search(
        r"^before\n<!-- peers -->\n.*2026-11-29, a CPU, 2 cores.*\n<!-- /peers -->\nafter\n$", text, re.DOTALL
    )
    assert "| FastAPI 0.1 | 100.0 (10.0 ms) | 100.0 (10.0 ms) | 100.0 (10.0 ms) | 0.01 |" in text
    assert "| in process | 100.0 (10.0 ms) |  |  |  |" in text
    (tmp_path / "other.md").write_text("nothing")
    with raises(InputError, "data.no_peer_table", "other.md"):
        write_table(tmp_path / "other.md", record_of({1: (95, 100), 8: (1, 1), 32: (1, 1)})[0])
