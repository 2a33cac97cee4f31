"""Kill client and server and cut the network at random moments of a job; compare its output with an undisturbed job.

python -m scripts.drills.fault_drill [--pictures 5000] [--kills 20] [--seed 0] [--batch 1] [--output FILE.json]

`client infer` processes small images, some of them damaged, through a real Triton. SIGKILL hits the client and the
server with all its children in turns, and after one in four kills the network is cut for a while. Each fault happens at
a random number of rows. The drill restarts a killed server, and restarts the client if it ended before the job was
complete. Every second client fails as soon as the server is away; the others wait for it.

The files must equal those of an undisturbed job: each image once, in the same order, and with one image in a request
(`--batch 1`) the same bytes. With larger batches, a batch has other images after a kill, which can change the last
digit of a probability; the drill measures this. Exits with 1 after a failure.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from builder.export import export
from builder.request import ExportRequest
from builder.sources import source_from_checkpoint
from scripts.drills.compare_jobs import compare, has_same_bytes
from scripts.drills.kill_drill import tiny_network
from scripts.drills.tcp_proxy import TcpProxy, open_proxy
from scripts.ports import free_ports
from server.process import STATE_VARIABLE, Options, Server, start, stop, wait_until_ready
from server.runtimes.table import runtime_of
from tritonkit.errors import ServerError
from tritonkit.networks.network import save_network
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write

_MODEL = "tiny"
_DAMAGED_INTERVAL = 100
_POLL_S = 0.003
_STALL_TIMEOUT_S = 60.0
"""The drill fails after this time without a new row."""


class FaultDrillResult(Frozen):
    """Result of the drill."""

    faults: dict[str, int]
    """SIGKILLs of the client and of the server, and breaks of the network."""
    clients: int
    """How often the command was started."""
    rows: int
    identical: bool
    """Whether all files have the same bytes as the undisturbed ones."""
    restarts: int
    """How often Triton crashed by itself and its supervisor restarted it."""
    largest_difference: float
    """Between two probabilities of the same picture and label."""
    failures: tuple[str, ...]
    seconds: float


@dataclass
class TritonProcess:
    """A Triton server that can be restarted on the same ports."""

    options: Options
    server: Server = field(init=False)
    restarts: int = 0
    """Restarts by the supervisors of the servers that ended."""

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        self.server = start(self.options, stops_with_parent=True)
        wait_until_ready(self.server, timeout_s=120)

    def kill(self) -> None:
        """SIGKILL the server and all its children."""
        self.restarts += runtime_of(self.server).restart_count(self.server)
        process = psutil.Process(self.server.pid)
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=30)

    def stop(self) -> None:
        """Stop the server."""
        self.restarts += runtime_of(self.server).restart_count(self.server)
        stop(self.server)


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

    def is_done(self) -> bool:
        """Whether the client has written all rows; restart a client that ended early."""
        if self.running is None:
            self.start()
        code = None if self.running is None else self.running.poll()
        if code in (0, 1) and self.output.exists():
            return True
        if code is not None:
            self.start()
        return False

    def rows(self) -> int:
        """Return the number of rows in the journal."""
        try:
            return self.output.with_name(f"{self.output.name}.partial").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0


def drill(
    folder: Path, repository: Path, model: str, pictures: int, kills: int, seed: int = 0, batch: int = 1
) -> FaultDrillResult:
    """Run an undisturbed and a disturbed job and compare their outputs. Raises the errors of a server start.

    folder: for all files of the drill; the server's state goes where `STATE_VARIABLE` says.
    """
    started = time.monotonic()
    make_pictures(folder / "pictures", pictures)
    http, grpc, metrics = free_ports()
    triton = TritonProcess(Options(repository=repository, http_port=http, grpc_port=grpc, metrics_port=metrics))
    with ExitStack() as stack:
        triton.start()
        stack.callback(triton.stop)
        proxy = stack.enter_context(open_proxy(grpc))
        jobs = {
            name: InferJob(
                folder / "pictures", folder / name / "answers.jsonl", f"127.0.0.1:{proxy.port}", model, batch
            )
            for name in ("undisturbed", "disturbed")
        }
        for job in jobs.values():
            job.output.parent.mkdir()
            stack.callback(job.kill)
        _wait(jobs["undisturbed"], 0)
        fault_counts = _disturb(jobs["disturbed"], triton, proxy, pictures, kills, random.Random(seed))  # noqa: S311
    failures, largest = compare(jobs["undisturbed"].output, jobs["disturbed"].output, pictures)
    if (missing := len(_faults(kills)) - sum(fault_counts.values())) > 0:
        failures.append(f"the job ended before {missing} of the faults; use more --pictures")
    identical = has_same_bytes(jobs["undisturbed"].output, jobs["disturbed"].output)
    if batch == 1 and not identical:
        failures.append("the files differ from those of the undisturbed job")
    return FaultDrillResult(
        faults=dict(fault_counts),
        clients=jobs["disturbed"].clients,
        rows=pictures,
        identical=identical,
        restarts=triton.restarts,
        largest_difference=largest,
        failures=tuple(failures),
        seconds=round(time.monotonic() - started, 1),
    )


def _disturb(
    job: InferJob, triton: TritonProcess, proxy: TcpProxy, pictures: int, kills: int, rng: random.Random
) -> Counter[str]:
    """Cause faults at random row counts, at least one row apart; return their number by kind."""
    fault_counts = Counter[str]()
    faults = _faults(kills)
    row_counts = sorted(rng.sample(range(1, max(len(faults) + 1, int(pictures * 0.7))), len(faults)))
    for fault, row_count in zip(faults, row_counts, strict=True):
        if _wait(job, max(row_count, job.rows() + 1)):
            break
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
    else:
        _wait(job, None)
    return fault_counts


def _faults(kills: int) -> list[str]:
    faults = []
    for number in range(kills):
        faults.append(("client", "server")[number % 2])
        if number % 4 == 1:
            faults.append("network")
    return faults


def _wait(job: InferJob, rows: int | None) -> bool:
    """Wait until the journal has `rows` rows; return True if the job was complete first."""
    last_row_count, last_change = -1, time.monotonic()
    while not job.is_done():
        row_count = job.rows()
        if rows and row_count >= rows:
            return False
        if row_count != last_row_count:
            last_row_count, last_change = row_count, time.monotonic()
        if time.monotonic() - last_change > _STALL_TIMEOUT_S:
            log_tail = job.output.with_suffix(".log").read_text(errors="replace")[-1000:]
            raise ServerError(
                f"{row_count} rows, no new row in {_STALL_TIMEOUT_S:.0f} s; the end of the client's log:\n{log_tail}",
                code="job.stalled",
            )
        time.sleep(_POLL_S)
    return True


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


def main() -> int:
    """Run the drill, then print and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ[STATE_VARIABLE] = str(folder / "state")
        save_network(folder / "tiny.safetensors", tiny_network())
        request = ExportRequest(
            source=source_from_checkpoint(folder / "tiny.safetensors", _MODEL),
            repository=folder / "repository",
            max_batch=8,
        )
        export(request)
        result = drill(
            folder, request.repository, _MODEL, arguments.pictures, arguments.kills, arguments.seed, arguments.batch
        )
    print(result.model_dump_json(indent=2))
    if arguments.output:
        with atomic_write(arguments.output) as path:
            path.write_text(result.model_dump_json(indent=2) + "\n")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
