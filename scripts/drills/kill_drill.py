"""Kill `builder export` at random moments; after each kill, the repository must load in a real Triton.

python -m scripts.drills.kill_drill [--kills 50] [--whole] [--seed 0] [--output FILE.json]

Three exports run in turns: a first export to ONNX fp16, a first export with an engine of TensorRT for RTX, and a new
version of a published model that keeps two versions. Two of three kills happen at any time of an export, the third
after the step `publishing`, when files move. Only the builder is killed, as by the kernel when memory is short. Then
`builder check` must find no error, and a Triton that loads the model must give the answers of the version's golden
sample and load the models for encoded images.

Exports run in forks of a process that has already imported torch, so that a restart costs no time, with a graph that
was exported before; `--whole` exports the graph each time. Exits with 1 after a failure.
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

from builder.export import export
from builder.repository.lint import check_repository
from builder.request import ExportRequest
from builder.sources import source_from_checkpoint
from builder.sources.base import NetworkSource
from scripts.drills.explicit_triton import ExplicitTriton, explicit_triton
from scripts.drills.forked_process import ForkedProcess, start_fork
from tritonkit.errors import TritonkitError
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.backbones import architecture_of
from tritonkit.networks.network import Network, save_network
from tritonkit.repository.staging import interrupted_exports, staging_folder
from tritonkit.runtimes.formats import ONNX
from tritonkit.spec import Frozen, ModelSpec, Normalize, TensorSpec, image_input
from tritonkit.system.files import atomic_write
from tritonkit.triton.companions import decoder_of, ensemble_of
from tritonkit.triton.model_config import CONFIG_FILE, versions_of

TARGETS = {
    "first_onnx": {"onnx": "fp16"},
    "first_rtx": {"rtx": "fp16"},
    "replacing": {"onnx": "fp16"},
}
"""Export targets by model name."""
MAX_BATCH = 4
PUBLISHING = "publishing"
TOLERANCE = 0.02
"""Allowed error of a probability in fp16."""


class KillDrillResult(Frozen):
    """Result of the drill."""

    kills: dict[str, int]
    """Number of kills by export step."""
    published: int
    """Killed exports that left their version in the repository."""
    interrupted: int
    """Kills that left something in the staging folder."""
    failures: tuple[str, ...]
    seconds: float


class _ExportedGraphSource(NetworkSource):
    """A checkpoint whose graph was exported before."""

    def write_graph(self, path: Path) -> None:
        shutil.copyfile(self.path.with_suffix(ONNX.suffix), path)


class ExportDrill:
    """Runs exports into one repository and kills them."""

    def __init__(self, folder: Path, triton: ExplicitTriton, seed: int, export_graphs: bool) -> None:
        self.repository = triton.repository
        self._checkpoint = folder / "network.safetensors"
        self._triton = triton
        self._rng = random.Random(seed)  # noqa: S311 - moments, no secrets
        torch.set_num_threads(1)  # threads do not survive a fork, which would wait for them
        self._export_graphs = export_graphs
        self._loaded: dict[str, int] = {}
        save_network(self._checkpoint, tiny_network())
        # Before the forks, so that they need not import the modules that torch loads lazily.
        source_from_checkpoint(self._checkpoint).write_graph(self._checkpoint.with_suffix(ONNX.suffix))
        self.export_s: dict[str, float] = {}
        self.publishing_s: dict[str, float] = {}

    def measure(self, model: str) -> None:
        """Run an export to its end to measure its time. Raises TritonkitError if it fails."""
        started = time.monotonic()
        running = self._start_export(model)
        running.wait(None, PUBLISHING)
        publishing_started = time.monotonic()
        running.wait(None)
        if code := running.end(kill=False):
            raise TritonkitError(f"{model}: an export that nobody killed ended with {code}", code="drill.export_failed")
        self.export_s[model], self.publishing_s[model] = (
            time.monotonic() - started,
            time.monotonic() - publishing_started,
        )

    def kill(self, model: str, while_publishing: bool) -> str | None:
        """Kill an export at a random moment; return its step, or None if it had ended."""
        running = self._start_export(model)
        if while_publishing:
            running.wait(None, PUBLISHING)
        span = self.publishing_s if while_publishing else self.export_s
        ended = running.wait(self._rng.uniform(0, span[model]))
        step = running.step
        if running.end(kill=not ended) > 0:
            raise TritonkitError(f"{model}: the export failed by itself while: {step}", code="drill.export_failed")
        return None if ended else step

    def problems(self, model: str) -> list[str]:
        """Return the problems of the repository."""
        errors = [finding for finding in check_repository(self.repository) if finding.severity == "error"]
        result = [f"{finding.path}: {finding.message}" for finding in errors]
        if (self.repository / model).is_dir():
            result += self._answer_problems(model)
        if (self.repository / ensemble_of(model)).is_dir():
            result += self._load_problems(decoder_of(model), ensemble_of(model))
        return result

    def clear(self, model: str) -> None:
        """Remove and unload a model, so that its next export is a first one."""
        for name in () if model == "replacing" else (ensemble_of(model), decoder_of(model), model):
            if self._loaded.pop(name, None):
                self._triton.unload(name)
            if (self.repository / name).is_dir():
                shutil.rmtree(self.repository / name)

    def _start_export(self, model: str) -> ForkedProcess:
        source = source_from_checkpoint(self._checkpoint, model)
        if not self._export_graphs:
            source = _ExportedGraphSource(source.path, source.golden, source.description, source.module)
        request = ExportRequest(
            source=source, repository=self.repository, max_batch=MAX_BATCH, **TARGETS[model], keep=2
        )

        def work(report: Callable[[str], None]) -> None:
            export(request, report)

        return start_fork(work)

    def _answer_problems(self, name: str) -> list[str]:
        newest = versions_of(self.repository / name)[-1]
        golden = Golden.load(self.repository / name / str(newest) / GOLDEN_FILE)
        try:
            self._triton.load(name)
            self._loaded[name] = newest
            version, answers = self._triton.infer(name, golden.images[:MAX_BATCH])
        except TritonkitError as error:
            return [str(error)]
        max_error = float(abs(answers - golden.outputs["probabilities"][:MAX_BATCH]).max())
        problems = [] if max_error <= TOLERANCE else [f"{name}: answers differ by {max_error:.1e}"]
        if version != newest:
            problems.append(f"{name}: Triton uses version {version}, the newest is {newest}")
        return problems

    def _load_problems(self, *names: str) -> list[str]:
        """Load models that were written since the last load; return the errors."""
        try:
            for name in names:
                written = (self.repository / name / CONFIG_FILE).stat().st_mtime_ns
                if self._loaded.get(name) != written:
                    self._triton.load(name)
                    self._loaded[name] = written
        except TritonkitError as error:
            return [str(error)]
        return []


def drill(folder: Path, kills: int, seed: int, export_graphs: bool = False) -> KillDrillResult:
    """Kill `kills` exports. Raises TritonkitError if an export fails by itself."""
    started = time.monotonic()
    (folder / "repository").mkdir()
    steps: Counter[str] = Counter()
    failures: list[str] = []
    interrupted = published = number = 0
    with explicit_triton(folder / "repository", folder) as triton:
        exports = ExportDrill(folder, triton, seed, export_graphs)
        for model in TARGETS:
            exports.measure(model)
            exports.clear(model)
        while steps.total() < kills:
            model = list(TARGETS)[number % len(TARGETS)]
            number += 1
            versions_before = versions_of(exports.repository / model)
            step = exports.kill(model, while_publishing=number % 9 in (3, 5, 7))  # of each model, a third
            if step is not None:
                steps[step] += 1
                published += versions_of(exports.repository / model) != versions_before
                interrupted += bool(interrupted_exports(exports.repository))
            failures += [
                f"kill {steps.total()}, {model}, while {step}: {problem}" for problem in exports.problems(model)
            ]
            exports.clear(model)
        failures += _check_cleanup(exports)
    return KillDrillResult(
        kills=dict(steps),
        published=published,
        interrupted=interrupted,
        failures=tuple(failures),
        seconds=round(time.monotonic() - started, 1),
    )


def _check_cleanup(exports: ExportDrill) -> list[str]:
    """Check that the next exports succeed and clean up after the last kill."""
    failures = []
    for model in TARGETS:
        exports.measure(model)
        failures += exports.problems(model)
    if staging_folder(exports.repository).exists():
        failures.append(f"{staging_folder(exports.repository)}: exists after complete exports")
    return failures


def tiny_network(name: str = "tiny", seed: int = 0, side: int = 32) -> Network:
    """Return a residual network of three classes at `side` x `side` pixels with random weights."""
    torch.manual_seed(seed)
    preprocess = Preprocess(height=side, width=side)
    spec = ModelSpec(
        name=name,
        task="multiclass",
        labels=("cat", "dog", "bird"),
        architecture=architecture_of("test_resnet", side, side),
        input=image_input(preprocess),
        outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(3,)),),
        preprocess=preprocess,
        normalize=Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    )
    return Network(spec).eval()


def main() -> int:
    """Run the drill, then print and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--whole", action="store_true", help="export the graph with torch each time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = drill(Path(folder), arguments.kills, arguments.seed, arguments.whole)
    print(result.model_dump_json(indent=2))
    if arguments.output:
        with atomic_write(arguments.output) as path:
            path.write_text(result.model_dump_json(indent=2) + "\n")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
