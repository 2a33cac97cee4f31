"""Kill `builder export` at random moments; after each kill, what is in the repository must load in a real Triton.

python -m scripts.kill_drill [--kills 50] [--whole] [--seed 0] [--output FILE.json]

By turns a first export to ONNX fp16, a first export with an engine of TensorRT for RTX, and one more version of a model
that is there, of which two are kept. Two kills of three fall anywhere in an export's time, the third after it said
`publishing`, when files move. Only the builder is killed, as the kernel does for want of memory. Then `builder check`
may find no error, and one Triton, told to load the model, must answer as the version's golden sample says.

Exports run in forks of a process that has imported torch, so that a kill costs no start, and of a network that torch
has exported before: that takes most of an export's time, and touches no repository. `--whole` has each export do it
again. Exits with 1 after a failure.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from builder.export import Order, export
from builder.repository.check import check_repository
from builder.repository.publish import leftovers, staging_folder, versions_of
from builder.sources import source_from_checkpoint
from builder.sources.base import NetworkSource
from builder.targets import Target
from model.backbones import architecture_of
from model.errors import TritonkitError
from model.files import written_beside
from model.golden import GOLDEN_FILE, Golden
from model.network import Network, save_network
from model.preprocess import Preprocess
from model.spec import Frozen, ModelSpec, Normalize, TensorSpec, image_input
from scripts.explicit_triton import ExplicitTriton, explicit_triton

WAYS = {
    "first_onnx": Target(precision="fp16"),
    "first_rtx": Target(format="rtx", precision="fp16"),
    "replacing": Target(precision="fp16"),
}
"""What is exported, under these names."""
MAX_BATCH = 4
PUBLISHING = "publishing"
TOLERANCE = 0.02
"""Of a probability: what an fp16 version may lose."""


class Drill(Frozen):
    """What came of it."""

    kills: dict[str, int]
    """By the step in which the export was."""
    published: int
    """Killed exports that left their version in the repository."""
    interrupted: int
    """Kills that left something in the staging folder."""
    failures: tuple[str, ...]
    seconds: float


@dataclass
class Export:
    """An export in a process of its own."""

    pid: int
    steps: int
    """The pipe's end from which its steps are read, a line each."""
    said: bytes = b""

    def wait(self, seconds: float | None, step: str | None = None) -> bool:
        """Wait until it has ended, or said that it began a step; False when the time was over first."""
        ends = None if seconds is None else time.monotonic() + seconds
        while step is None or f"{step}\n".encode() not in self.said:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            ready, _, _ = select.select([self.steps], [], [], left)
            if not ready:
                return False
            chunk = os.read(self.steps, 4096)
            if not chunk:  # it has ended, and with it its end of the pipe
                return True
            self.said += chunk
        return True

    @property
    def step(self) -> str:
        """The last that it began."""
        lines = self.said.decode().splitlines()
        return lines[-1].partition(":")[0] if lines else "reading the source"

    def end(self, kill: bool) -> int:
        """Kill it if wanted, and alone; return its exit code, below 0 for a signal."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.steps)
        return code


def started(work: Callable[[Callable[[str], None]], None]) -> Export:
    """Do `work` in a fork and a session of its own; it is given what tells of steps."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Export(pid, reading)
    code = 1
    try:
        os.setsid()
        work(lambda step: _tell(writing, step))
        code = 0
    except Exception:  # noqa: BLE001 - told, and shown by the exit code; nothing of the parent may run here
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell(pipe: int, step: str) -> None:
    os.write(pipe, f"{step}\n".encode())


class _ExportedOnce(NetworkSource):
    """A checkpoint whose graph lies beside it."""

    def write_graph(self, path: Path) -> None:
        shutil.copyfile(self.path.with_suffix(".onnx"), path)


class Range:
    """Where exports are killed."""

    def __init__(self, folder: Path, triton: ExplicitTriton, seed: int, whole: bool) -> None:
        self.repository = triton.repository
        self._checkpoint = folder / "network.safetensors"
        self._triton = triton
        self._chance = random.Random(seed)  # noqa: S311 - moments, no secrets
        torch.set_num_threads(1)  # the threads of a pool do not live on in a fork, and a fork would wait for them
        self._whole = whole
        self._loaded: set[str] = set()
        save_network(self._checkpoint, tiny_network())
        # Before the forks, so that all that torch imports for it is there.
        source_from_checkpoint(self._checkpoint).write_graph(self._checkpoint.with_suffix(".onnx"))
        self.whole_s: dict[str, float] = {}
        self.publishing_s: dict[str, float] = {}

    def measure(self, way: str) -> None:
        """Let an export end, to know how long it takes. Raises TritonkitError when it fails."""
        began = time.monotonic()
        running = self._started(way)
        running.wait(None, PUBLISHING)
        publishing = time.monotonic()
        running.wait(None)
        if code := running.end(kill=False):
            raise TritonkitError(f"{way}: an export that nobody killed ended with {code}")
        self.whole_s[way], self.publishing_s[way] = time.monotonic() - began, time.monotonic() - publishing

    def kill(self, way: str, while_publishing: bool) -> str | None:
        """Kill an export at a random moment; the step it was in, None where it had ended before."""
        running = self._started(way)
        if while_publishing:
            running.wait(None, PUBLISHING)
        span = self.publishing_s if while_publishing else self.whole_s
        ended = running.wait(self._chance.uniform(0, span[way]))
        step = running.step
        if running.end(kill=not ended) > 0:
            raise TritonkitError(f"{way}: the export failed by itself while: {step}")
        return None if ended else step

    def problems(self, way: str) -> list[str]:
        """What is wrong with the repository now."""
        errors = [finding for finding in check_repository(self.repository) if finding.severity == "error"]
        found = [f"{finding.path}: {finding.problem}" for finding in errors]
        if (self.repository / way).is_dir():
            found += self._wrong_answers(way)
        return found

    def clear(self, way: str) -> None:
        """Have the next first export be a first one again."""
        if way != "replacing" and (self.repository / way).is_dir():
            if way in self._loaded:
                self._triton.unload(way)
            shutil.rmtree(self.repository / way)

    def _started(self, way: str) -> Export:
        source = source_from_checkpoint(self._checkpoint, way)
        if not self._whole:
            source = _ExportedOnce(source.path, source.golden, source.description, source.module)
        order = Order(self.repository, max_batch=MAX_BATCH, target=WAYS[way], keep=2)

        def work(tell: Callable[[str], None]) -> None:
            export(source, order, tell)

        return started(work)

    def _wrong_answers(self, name: str) -> list[str]:
        newest = versions_of(self.repository / name)[-1]
        golden = Golden.load(self.repository / name / str(newest) / GOLDEN_FILE)
        try:
            self._triton.load(name)
            self._loaded.add(name)
            version, answers = self._triton.infer(name, golden.images[:MAX_BATCH])
        except TritonkitError as error:
            return [str(error)]
        off = float(abs(answers - golden.outputs["probabilities"][:MAX_BATCH]).max())
        wrong = [] if off <= TOLERANCE else [f"{name}: answers are off by {off:.1e}"]
        return wrong if version == newest else [*wrong, f"{name}: Triton answers by {version}, the newest is {newest}"]


def drill(folder: Path, kills: int, seed: int, whole: bool = False) -> Drill:
    """Kill so many exports. Raises TritonkitError when one fails without being killed."""
    began = time.monotonic()
    (folder / "repository").mkdir()
    steps: Counter[str] = Counter()
    failures: list[str] = []
    interrupted = published = number = 0
    with explicit_triton(folder / "repository", folder) as triton:
        place = Range(folder, triton, seed, whole)
        for way in WAYS:
            place.measure(way)
            place.clear(way)
        while steps.total() < kills:
            way = list(WAYS)[number % len(WAYS)]
            number += 1
            before = versions_of(place.repository / way)
            step = place.kill(way, while_publishing=number % 9 in (3, 5, 7))  # of each way, a third
            if step is not None:
                steps[step] += 1
                published += versions_of(place.repository / way) != before
                interrupted += bool(leftovers(place.repository))
            failures += [f"kill {steps.total()}, {way}, while {step}: {said}" for said in place.problems(way)]
            place.clear(way)
        failures += _after(place)
    return Drill(
        kills=dict(steps),
        published=published,
        interrupted=interrupted,
        failures=tuple(failures),
        seconds=round(time.monotonic() - began, 1),
    )


def _after(place: Range) -> list[str]:
    """The next exports clear up and go well, whatever the last kill left."""
    failures = []
    for way in WAYS:
        place.measure(way)
        failures += place.problems(way)
    if staging_folder(place.repository).exists():
        failures.append(f"{staging_folder(place.repository)}: still there after whole exports")
    return failures


def tiny_network() -> Network:
    """A residual network of three classes at 32 x 32 pixels, random weights."""
    torch.manual_seed(0)
    how = Preprocess(height=32, width=32)
    spec = ModelSpec(
        name="tiny",
        task="multiclass",
        labels=("cat", "dog", "bird"),
        architecture=architecture_of("test_resnet", 32, 32),
        input=image_input(how),
        outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(3,)),),
        preprocess=how,
        normalize=Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    )
    return Network(spec).eval()


def main() -> int:
    """Drill, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--whole", action="store_true", help="have torch export the network each time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = drill(Path(folder), words.kills, words.seed, words.whole)
    print(found.model_dump_json(indent=2))
    if words.output:
        with written_beside(words.output) as beside:
            beside.write_text(found.model_dump_json(indent=2) + "\n")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
