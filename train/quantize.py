"""`train quantize`: trains a checkpoint further with fake quantization, and measures both in fp32 and in int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.compression.fake_quantization import Int8Simulation
from train.config.sections import QuantizationConfig
from train.data import SPLITS
from train.evaluate import evaluate
from train.fine_tuning import fine_tune, fine_tuning_config, local_run_checkpoint
from tritonkit.evaluation.evaluate import MetricValues
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.spec import Frozen

LR_FACTOR = 0.1
"""The learning rate, as a factor on that of the checkpoint's run."""


class PrecisionMetrics(Frozen):
    """The metrics of a checkpoint in fp32, and as its int8 artifact would have them."""

    checkpoint: Path
    fp32: MetricValues
    int8: MetricValues


class QuantizeResult(Frozen):
    """A checkpoint that was trained with fake quantization, and the one that it started from."""

    checkpoint: Path
    run: Path
    measured_on: str
    before: PrecisionMetrics
    after: PrecisionMetrics
    warnings: tuple[str, ...]


def quantize(
    checkpoint: Path | str,
    data: str | Path | None = None,
    epochs: int = 4,
    activations: str = "uint8",
    overrides: Sequence[str] = (),
) -> QuantizeResult:
    """Train a checkpoint further with fake quantization, as a new run with the configuration of its own run.

    activations: as in `QuantizationConfig`. Raises InputError before the training, and whatever `fit` raises.
    """
    changes = {"epochs": epochs, "quantization": {"activations": activations}}
    local = local_run_checkpoint(checkpoint)
    config = fine_tuning_config(local, str(checkpoint), data, changes, overrides, LR_FACTOR)
    result = fine_tune(local, config)
    images = Golden.load(result.run / GOLDEN_FILE).images
    splits, quantization = result.run / SPLITS, config.quantization or QuantizationConfig()
    measures, measured_on = [], ""
    for path in (local, result.checkpoint):
        fp32 = evaluate(path, splits)
        int8 = evaluate(path, splits, runner=Int8Simulation(path, quantization, images))
        measures.append(PrecisionMetrics(checkpoint=path, fp32=fp32.metrics, int8=int8.metrics))
        measured_on = f"{fp32.images} images of {splits} ({fp32.part})"
    return QuantizeResult(
        checkpoint=result.checkpoint,
        run=result.run,
        measured_on=measured_on,
        before=measures[0],
        after=measures[1],
        warnings=result.warnings,
    )
