"""Kill client and server and cut the network, at random moments of one job; its output must be the undisturbed one.

python -m scripts.fault_drill [--pictures 5000] [--kills 20] [--seed 0] [--batch 1] [--output FILE.json]

`client infer` answers small pictures, some of them broken, through a real Triton. SIGKILL hits by turns the client and
the server with all its children, and after one of four kills the network breaks for a while; each fault falls at a
random number of rows. A server that was killed is started again by the drill, and the same command whenever the client
has ended without being done; every second client gives up as soon as the server is away, the others wait for it.

In the end the files must be those of a job that nobody disturbed: every picture once, in the same order, and with a
request a picture (`--batch 1`) the same bytes. Larger batches are made up of other pictures after a kill, by which the
last digit of a probability may differ; this is measured. Exits with 1 after a failure.
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

from builder.export import ExportRequest, export
from builder.sources import source_from_checkpoint
from model.errors import ServerError
from model.files import atomic_write
from model.network import save_network
from model.spec import Frozen
from scripts.compared import compare, same_bytes
from scripts.kill_drill import tiny_network
from scripts.ports import free_ports
from scripts.tcp_proxy import TcpProxy, proxy_to
from server.process import STATE_VARIABLE, Options, Server, start, stop, wait_until_ready
from server.runtime_table import runtime_of

_MODEL = "tiny"
_BROKEN_EVERY = 100
_LOOK_S = 0.003
_PATIENCE_S = 60.0
"""Without a row for so long, the drill has failed."""


class Drill(Frozen):
    """What came of it."""

    faults: dict[str, int]
    """SIGKILLs of the client and of the server, and breaks of the network."""
    clients: int
    """How often the command was started."""
    rows: int
    identical: bool
    """Whether all files have the same bytes as the undisturbed ones."""
    restarts: int
    """How often Triton died of itself in between, and its keeper started it again."""
    largest_difference: float
    """Between two probabilities of the same picture and label."""
    failures: tuple[str, ...]
    seconds: float


@dataclass
class Triton:
    """A server that is started again on the same ports."""

    options: Options
    server: Server = field(init=False)
    restarts: int = 0
    """By the keepers of those that have ended."""

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.server = start(self.options, stops_with_parent=True)
        wait_until_ready(self.server, timeout_s=120)

    def kill(self) -> None:
        """SIGKILL it and all its children at once."""
        self.restarts += runtime_of(self.server).restarts(self.server)
        process = psutil.Process(self.server.pid)
        family = [process, *process.children(recursive=True)]
        for one in family:
            one.kill()
        psutil.wait_procs(family, timeout=30)

    def stop(self) -> None:
        """End it."""
        self.restarts += runtime_of(self.server).restarts(self.server)
        stop(self.server)


@dataclass
class Job:
    """One command, started until it is done."""

    pictures: Path
    output: Path
    url: str
    model: str
    batch: int
    clients: int = 0
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the client; what it says goes to a file beside its output."""
        words = ["infer", self.pictures, "--url", self.url, "--model", self.model, "--batch", self.batch]
        words += ["--output", self.output, "--output", self.output.with_suffix(".csv")]
        # By turns one that gives up at once and one that waits for the server to come back.
        words += ["--patience", 0 if self.clients % 2 else 60]
        program = [sys.executable, "-c", "from client.cli import app; app()", *map(str, words)]
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
        """Whether the client has ended, with all rows written; one that gave up is started again."""
        if self.running is None:
            self.start()
        code = None if self.running is None else self.running.poll()
        if code in (0, 1) and self.output.exists():
            return True
        if code is not None:
            self.start()
        return False

    def rows(self) -> int:
        """How many rows the journal has."""
        try:
            return self.output.with_name(f"{self.output.name}.partial").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0


def drill(
    folder: Path, repository: Path, model: str, pictures: int, kills: int, seed: int = 0, batch: int = 1
) -> Drill:
    """Run one job in peace and one under fire, and compare. Raises what starting a server raises.

    folder: for all that is made; the server's state goes where `STATE_VARIABLE` says.
    """
    began = time.monotonic()
    make_pictures(folder / "pictures", pictures)
    http, grpc, metrics = free_ports()
    triton = Triton(Options(repository=repository, http_port=http, grpc_port=grpc, metrics_port=metrics))
    with ExitStack() as stack:
        triton.start()
        stack.callback(triton.stop)
        proxy = stack.enter_context(proxy_to(grpc))
        jobs = {
            name: Job(folder / "pictures", folder / name / "answers.jsonl", f"127.0.0.1:{proxy.port}", model, batch)
            for name in ("undisturbed", "disturbed")
        }
        for job in jobs.values():
            job.output.parent.mkdir()
            stack.callback(job.kill)
        _wait(jobs["undisturbed"], 0)
        counted = _disturb(jobs["disturbed"], triton, proxy, pictures, kills, random.Random(seed))  # noqa: S311
    failures, largest = compare(jobs["undisturbed"].output, jobs["disturbed"].output, pictures)
    if (missing := len(_faults(kills)) - sum(counted.values())) > 0:
        failures.append(f"the job was done with {missing} faults to come: give it more pictures")
    identical = same_bytes(jobs["undisturbed"].output, jobs["disturbed"].output)
    if batch == 1 and not identical:
        failures.append("the files are not the undisturbed ones to the last byte")
    return Drill(
        faults=dict(counted),
        clients=jobs["disturbed"].clients,
        rows=pictures,
        identical=identical,
        restarts=triton.restarts,
        largest_difference=largest,
        failures=tuple(failures),
        seconds=round(time.monotonic() - began, 1),
    )


def _disturb(
    job: Job, triton: Triton, proxy: TcpProxy, pictures: int, kills: int, chance: random.Random
) -> Counter[str]:
    """Faults at random numbers of rows, each after at least one row more than the one before."""
    counted = Counter[str]()
    faults = _faults(kills)
    moments = sorted(chance.sample(range(1, max(len(faults) + 1, int(pictures * 0.7))), len(faults)))
    for fault, moment in zip(faults, moments, strict=True):
        if _wait(job, max(moment, job.rows() + 1)):
            break
        time.sleep(chance.uniform(0, 0.02))
        if fault == "client":
            job.kill()
        elif fault == "server":
            triton.kill()
            triton.start()
        else:
            proxy.cut()
            time.sleep(chance.uniform(0.1, 1.0))
            proxy.mend()
        counted[fault] += 1
    else:
        _wait(job, None)
    return counted


def _faults(kills: int) -> list[str]:
    faults = []
    for number in range(kills):
        faults.append(("client", "server")[number % 2])
        if number % 4 == 1:
            faults.append("network")
    return faults


def _wait(job: Job, rows: int | None) -> bool:
    """Wait until the journal has so many rows; True when the job was done first."""
    last, since = -1, time.monotonic()
    while not job.is_done():
        now = job.rows()
        if rows and now >= rows:
            return False
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > _PATIENCE_S:
            said = job.output.with_suffix(".log").read_text(errors="replace")[-1000:]
            raise ServerError(f"{now} rows, and no other in {_PATIENCE_S:.0f} s; the client's last words:\n{said}")
        time.sleep(_LOOK_S)
    return True


def make_pictures(folder: Path, count: int) -> None:
    """Small pictures that all differ; one of a hundred is none."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06}.png"
        if number % _BROKEN_EVERY == _BROKEN_EVERY // 2:
            path.write_text("not a picture")
        else:
            coarse = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((40, 30)).save(path, compress_level=1)


def main() -> int:
    """Drill, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--output", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ[STATE_VARIABLE] = str(folder / "state")
        save_network(folder / "tiny.safetensors", tiny_network())
        order = ExportRequest(folder / "repository", max_batch=8)
        export(source_from_checkpoint(folder / "tiny.safetensors", _MODEL), order, lambda step: None)
        found = drill(folder, order.repository, _MODEL, words.pictures, words.kills, words.seed, words.batch)
    print(found.model_dump_json(indent=2))
    if words.output:
        with atomic_write(words.output) as beside:
            beside.write_text(found.model_dump_json(indent=2) + "\n")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
