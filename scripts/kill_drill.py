"""Kill `builder export` at random moments; after each kill, what is in the repository must load in a real Triton.

python -m scripts.kill_drill [--kills 50] [--whole] [--seed 0] [--output FILE.json]

By turns a first export to ONNX fp16, a first export with an engine of TensorRT for RTX, and one more version of a model
that is there, of which two are kept. Two kills of three fall anywhere in an export's time, the third after it said
`publishing`, when files move. Only the builder is killed, as the kernel does for want of memory. Then `builder check`
may find no error, and one Triton, told to load the model, must answer as the version's golden sample says, and load
what stands beside it for encoded pictures.

Exports run in forks of a process that has imported torch, so that a kill costs no start, and of a network that torch
has exported before; with `--whole` each exports again. Exits with 1 after a failure.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from builder.export import ExportRequest, export
from builder.repository.check import check_repository
from builder.sources import source_from_checkpoint
from builder.sources.base import NetworkSource
from builder.targets import Target
from model.backbones import architecture_of
from model.encoded import decoder_of, ensemble_of
from model.errors import TritonkitError
from model.files import atomic_write
from model.golden import GOLDEN_FILE, Golden
from model.network import Network, save_network
from model.preprocess import Preprocess
from model.spec import Frozen, ModelSpec, Normalize, TensorSpec, image_input
from model.staging import leftovers, staging_folder
from model.triton_config import CONFIG_FILE, versions_of
from scripts.explicit_triton import ExplicitTriton, explicit_triton
from scripts.forked import Forked, started

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
        self._loaded: dict[str, int] = {}
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
        found = [f"{finding.path}: {finding.message}" for finding in errors]
        if (self.repository / way).is_dir():
            found += self._wrong_answers(way)
        if (self.repository / ensemble_of(way)).is_dir():
            found += self._not_loaded(decoder_of(way), ensemble_of(way))
        return found

    def clear(self, way: str) -> None:
        """Have the next first export be a first one again."""
        for name in () if way == "replacing" else (ensemble_of(way), decoder_of(way), way):
            if self._loaded.pop(name, None):
                self._triton.unload(name)
            if (self.repository / name).is_dir():
                shutil.rmtree(self.repository / name)

    def _started(self, way: str) -> Forked:
        source = source_from_checkpoint(self._checkpoint, way)
        if not self._whole:
            source = _ExportedOnce(source.path, source.golden, source.description, source.module)
        order = ExportRequest(self.repository, max_batch=MAX_BATCH, target=WAYS[way], keep=2)

        def work(tell: Callable[[str], None]) -> None:
            export(source, order, tell)

        return started(work)

    def _wrong_answers(self, name: str) -> list[str]:
        newest = versions_of(self.repository / name)[-1]
        golden = Golden.load(self.repository / name / str(newest) / GOLDEN_FILE)
        try:
            self._triton.load(name)
            self._loaded[name] = newest
            version, answers = self._triton.infer(name, golden.images[:MAX_BATCH])
        except TritonkitError as error:
            return [str(error)]
        off = float(abs(answers - golden.outputs["probabilities"][:MAX_BATCH]).max())
        wrong = [] if off <= TOLERANCE else [f"{name}: answers are off by {off:.1e}"]
        return wrong if version == newest else [*wrong, f"{name}: Triton answers by {version}, the newest is {newest}"]

    def _not_loaded(self, *names: str) -> list[str]:
        """Why those that were put there since do not load."""
        try:
            for name in names:
                written = (self.repository / name / CONFIG_FILE).stat().st_mtime_ns
                if self._loaded.get(name) != written:
                    self._triton.load(name)
                    self._loaded[name] = written
        except TritonkitError as error:
            return [str(error)]
        return []


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


def tiny_network(name: str = "tiny", seed: int = 0, side: int = 32) -> Network:
    """A residual network of three classes at `side` x `side` pixels, random weights."""
    torch.manual_seed(seed)
    how = Preprocess(height=side, width=side)
    spec = ModelSpec(
        name=name,
        task="multiclass",
        labels=("cat", "dog", "bird"),
        architecture=architecture_of("test_resnet", side, side),
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
        with atomic_write(words.output) as beside:
            beside.write_text(found.model_dump_json(indent=2) + "\n")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
