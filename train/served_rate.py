"""Measures the served images per second of checkpoints, by running `builder`, `server` and `bench`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from train.export import environment_with
from tritonkit.golden import GOLDEN_FILE
from tritonkit.system import commands

BATCH, CONCURRENCY = 8, 4
"""Images in a request, and requests in flight."""


def check_commands() -> None:
    """Raise InputError if a command that measures is not installed."""
    commands.check_commands("builder", "server", "bench", advice=", or use --no-serve")


def served_rates(
    checkpoints: Mapping[str, Path], rounds: int, window_s: float, plugins: Sequence[str], report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Serve each checkpoint as ONNX fp32 with one Triton; return images per second, measured in turns.

    Raises CheckFailedError if a verdict failed, ExternalError if Triton or a command failed.
    """
    rates: dict[str, list[float]] = {name: [] for name in checkpoints}
    environment = environment_with(plugins)
    run = partial(commands.run_command, environment=environment)
    with tempfile.TemporaryDirectory() as folder:
        repository, samples = Path(folder) / "repository", Path(folder) / "samples"
        for name, checkpoint in checkpoints.items():
            report(f"exporting {checkpoint}")
            options = ("--name", name, "--repository", repository, "--max-batch", BATCH, "--no-encoded")
            artifact = Path(run("builder", "export", checkpoint, *options)["artifact"])
            # With the images but without the artifact, `bench run` does not measure the limit in process.
            (samples / name / artifact.parent.name).mkdir(parents=True)
            shutil.copy(artifact.with_name(GOLDEN_FILE), samples / name / artifact.parent.name)
        report("starting Triton")
        with commands.serving(repository, environment=environment) as port:
            load = ("--batch", BATCH, "--concurrency", CONCURRENCY, "--window-s", window_s, "--max-windows", 6)
            target = ("--url", f"127.0.0.1:{port}", "--repository", samples)
            for number in range(rounds):
                for name in list(checkpoints)[:: -1 if number % 2 else 1]:
                    report(f"measuring, round {number + 1} of {rounds}: {name}")
                    (level,) = run("bench", "run", name, *target, *load)["levels"]
                    rates[name].append(round(level["images_per_s"], 1))
    return rates
