"""Kill client and server and cut the network at random moments of a job; compare its output with an undisturbed job.

`client infer` processes small images, some of them damaged, through a real Triton. SIGKILL hits the client and the
server with all its children in turns, and after one in four kills the network is cut for a while. Each fault happens at
a random number of rows. The drill restarts a killed server, and restarts the client if it ended before the job was
complete. Every second client fails as soon as the server is away; the others wait for it.

The files must equal those of an undisturbed job: each image once, in the same order, and with one image in a request
(`--batch 1`) the same bytes. With larger batches, a batch has other images after a kill, which can change the last
digit of a probability; the drill measures this. Exits with 1 after a failure.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.studies.local_triton import LocalTriton, publish_network, serve, tiny_network
from benchmarks.studies.study import Result, command
from scripts.drills.tcp_proxy import TcpProxy, open_proxy
from tritonkit.errors import ServerError

_MODEL = "tiny"
_DAMAGED_INTERVAL = 100
_POLL_S = 0.003
_STALL_TIMEOUT_S = 60.0
"""The drill fails after this time without a new row."""
_TOLERANCE = 1e-5
"""Allowed difference of a probability between batches of different images."""


@dataclass
class InferJob:
    """One `client infer` command, restarted until its output is complete."""

    pictures: Path
    output: Path
    url: str
    model: str
    batch: int
    clients: int = 0
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the client; its log goes to a file next to its output."""
        arguments = ["infer", self.pictures, "--url", self.url, "--model", self.model, "--batch", self.batch]
        arguments += ["--output", self.output, "--output", self.output.with_suffix(".csv")]
        # Alternate between a client that fails at once and one that waits for the server.
        arguments += ["--patience", 0 if self.clients % 2 else 60]
        program = [sys.executable, "-c", "from client.cli import app; app()", *map(str, arguments)]
        with self.output.with_suffix(".log").open("ab") as log:
            # A session of its own, so that its whole group can be killed.
            self.running = subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True)
        self.clients += 1

    def kill(self) -> None:
        """SIGKILL the client, if it runs."""
        if self.running is not None and self.running.poll() is None:
            os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait()

    def wait(self, rows: int | None) -> bool:
        """Wait until the job has `rows` rows; return True if it was complete first. Restarts a client that ended early.

        Raises ServerError.
        """
        last_row_count, last_change = -1, time.monotonic()
        while True:
            code = None if self.running is None else self.running.poll()
            if code in (0, 1) and self.output.exists():
                return True
            if self.running is None or code is not None:
                self.start()
            row_count = job_rows(self.output)
            if rows and row_count >= rows:
                return False
            if row_count != last_row_count:
                last_row_count, last_change = row_count, time.monotonic()
            if time.monotonic() - last_change > _STALL_TIMEOUT_S:
                log_tail = self.output.with_suffix(".log").read_text(errors="replace")[-1000:]
                raise ServerError(
                    f"{row_count} rows, no new row in {_STALL_TIMEOUT_S:.0f} s; the client's log ends:\n{log_tail}",
                    code="job.stalled",
                )
            time.sleep(_POLL_S)


def job_rows(output: Path) -> int:
    """Return the number of rows that `client infer` has in its job."""
    path = output.with_name(f"{output.name}.job")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM row").fetchone()[0])
    except sqlite3.Error:  # it has not begun
        return 0


def drill(
    folder: Path, repository: Path, model: str, pictures: int, kills: int, seed: int = 0, batch: int = 1
) -> Result:
    """Run an undisturbed and a disturbed job and compare their outputs. Raises the errors of a server start.

    folder: for all files of the drill.
    """
    started = time.monotonic()
    make_pictures(folder / "pictures", pictures)
    outputs = [folder / name / "answers.jsonl" for name in ("undisturbed", "disturbed")]
    faults = []
    for number in range(kills):
        faults += [("client", "server")[number % 2], *["network"] * (number % 4 == 1)]
    with ExitStack() as stack:
        triton = stack.enter_context(serve(repository))
        proxy = stack.enter_context(open_proxy(triton.options.grpc_port))
        url = f"127.0.0.1:{proxy.port}"
        undisturbed, disturbed = (InferJob(folder / "pictures", output, url, model, batch) for output in outputs)
        for job in (undisturbed, disturbed):
            job.output.parent.mkdir()
            stack.callback(job.kill)
        undisturbed.wait(None)
        fault_counts = _disturb(disturbed, triton, proxy, pictures, faults, random.Random(seed))  # noqa: S311
    failures, largest = compare(outputs[0], outputs[1], pictures)
    if (missing := len(faults) - fault_counts.total()) > 0:
        failures.append(f"the job ended before {missing} of the faults; use more --pictures")
    csv_files = [output.with_suffix(".csv") for output in outputs]
    identical = all(len({path.read_bytes() for path in pair}) == 1 for pair in (outputs, csv_files))
    if batch == 1 and not identical:
        failures.append("the files differ from those of the undisturbed job")
    record = {
        "faults": dict(fault_counts),
        "clients": disturbed.clients,  # how often the command was started
        "rows": pictures,
        "identical": identical,
        "restarts": triton.restarts,  # Triton crashed by itself and its supervisor restarted it
        "largest_difference": largest,  # between two probabilities of the same image and label
        "failures": failures,
        "seconds": round(time.monotonic() - started, 1),
    }
    return Result(record, {"the disturbed job has the answers of the undisturbed": not failures})


def _disturb(
    job: InferJob, triton: LocalTriton, proxy: TcpProxy, pictures: int, faults: list[str], rng: random.Random
) -> Counter[str]:
    """Cause faults at random row counts, at least one row apart; return their number by kind."""
    fault_counts = Counter[str]()
    row_counts = sorted(rng.sample(range(1, max(len(faults) + 1, int(pictures * 0.7))), len(faults)))
    for fault, row_count in zip(faults, row_counts, strict=True):
        if job.wait(max(row_count, job_rows(job.output) + 1)):
            return fault_counts
        time.sleep(rng.uniform(0, 0.02))
        if fault == "client":
            job.kill()
        elif fault == "server":
            triton.kill()
            triton.start()
        else:
            proxy.cut()
            time.sleep(rng.uniform(0.1, 1.0))
            proxy.mend()
        fault_counts[fault] += 1
    job.wait(None)
    return fault_counts


def compare(expected: Path, actual: Path, pictures: int) -> tuple[list[str], float]:
    """Compare the JSON lines of two jobs; return the failures and the largest difference of a probability."""
    expected_rows, actual_rows = (list(map(json.loads, path.read_text().splitlines())) for path in (expected, actual))
    names = [row["path"] for row in actual_rows]
    failures = []
    if len(names) != pictures or len(set(names)) != len(names):
        failures.append(f"{len(names)} rows of {len(set(names))} pictures, expected {pictures}")
    if names != [row["path"] for row in expected_rows]:
        return [*failures, "different images, or a different order"], float("inf")
    differences = dict(zip(names, map(_difference, expected_rows, actual_rows), strict=True))
    different = [name for name, difference in differences.items() if difference > _TOLERANCE]
    return failures + [f"{name}: different answer" for name in different[:10]], max(differences.values())


def _difference(first_row: dict[str, Any], second_row: dict[str, Any]) -> float:
    rows = (first_row, second_row)
    first, second = ({entry["label"]: entry["probability"] for entry in row.get("top", [])} for row in rows)
    other_keys = first_row.keys() != second_row.keys() or first.keys() != second.keys()
    if other_keys or first_row.get("error") != second_row.get("error"):
        return float("inf")
    return max((abs(first[label] - second[label]) for label in first), default=0.0)


def make_pictures(folder: Path, count: int) -> None:
    """Write small different images; one file in a hundred is not an image."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06}.png"
        if number % _DAMAGED_INTERVAL == _DAMAGED_INTERVAL // 2:
            path.write_text("not a picture")
        else:
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((40, 30)).save(path, compress_level=1)


def fault_drill(pictures: int = 5000, kills: int = 20, seed: int = 0, batch: int = 1) -> Result:
    """Run the drill with a tiny network."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        publish_network(tiny_network(), folder / "repository", _MODEL, max_batch=8)
        return drill(folder, folder / "repository", _MODEL, pictures, kills, seed, batch)


if __name__ == "__main__":
    command(fault_drill)()
