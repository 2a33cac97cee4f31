"""Writes a run's checkpoints with their lineage, golden images and a drift sketch with the model's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from torch.utils.data import default_collate

from train.engine.plan import TrainingPlan
from train.engine.run_folder import RunFolder, git_revision
from train.reports.evaluation import EvaluationCollector
from train.tasks import TrainingTask
from tritonkit.evaluation.evaluate import AnsweredBatch, MetricValues, load_sample, measure
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.evaluation.tasks.base import natural_sort_key
from tritonkit.golden import GOLDEN_FILE, MAX_IMAGES, Golden, pack_geometries
from tritonkit.networks.network import save_network
from tritonkit.remotes.addresses import public_name, public_values
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.sketch import SKETCH_FILE, SketchSampler
from tritonkit.spec import Lineage


def publish(
    checkpoint_name: str,
    plan: TrainingPlan,
    run: RunFolder,
    warnings: tuple[str, ...] = (),
    on_batch: Callable[[AnsweredBatch], None] | None = None,
) -> MetricValues:
    """Write a checkpoint (`best`, `last`, …), its golden images and its sketch; return the metrics on val and test.

    With `best` it writes the evaluation too, for the report of the run.

    warnings: of the run, for the lineage. on_batch: called with each batch of answers on val.
    """
    network, splits = plan.network, plan.splits
    runner = TorchRunner(network, origin=str(run.checkpoint(checkpoint_name)))
    parts = {"val": splits.val, "test": splits.test}
    metrics: MetricValues = {}
    reported_part: Literal["test", "val"] = "test" if splits.test else "val"
    lineage = Lineage(config=public_values(plan.config.model_dump(mode="json")))
    sampler = SketchSampler(network.spec.model_copy(update={"lineage": lineage}))
    report = EvaluationCollector(plan.task, network.spec, reported_part, run.evaluation, run.started)
    for part, samples in parts.items():
        if samples:
            reported = checkpoint_name == "best" and part == report.part
            observers = [*filter(None, [on_batch if part == "val" else None, report.add if reported else None])]
            if part == "val":
                observers.append(partial(_add_queries, sampler))
            values, _ = measure(runner, (*splits.base, *samples), plan.task, partial(_call_each, observers))
            metrics |= {f"{part}_{name}": value for name, value in values.items()}
            if reported:
                report.save(values)
    lineage = Lineage(
        data_fingerprint=splits.fingerprint,
        group=splits.provenance.group,
        config=lineage.config,
        git_revision=git_revision(),
        seed=plan.config.seed,
        metrics={name: value for name, value in metrics.items() if value is not None},
        mlflow_run=run.mlflow_run(),
        warnings=warnings,
        parent=None if plan.config.model.weights is None else public_name(str(plan.config.model.weights)),
    )
    # The checkpoint is written last, so that its golden images and its sketch exist whenever it exists.
    golden, sketch = (
        name if checkpoint_name == "best" else f"{checkpoint_name}.{name}" for name in (GOLDEN_FILE, SKETCH_FILE)
    )
    if sampler.seen:
        sampler.sketch("validation images").save(run.path / sketch)
    make_golden(runner, splits.val, plan.task).save(run.path / golden)
    save_network(run.checkpoint(checkpoint_name), network, network.spec.model_copy(update={"lineage": lineage}))
    return metrics


def _call_each(observers: Iterable[Callable[[AnsweredBatch], None]], batch: AnsweredBatch) -> None:
    for observer in observers:
        observer(batch)


def _add_queries(sampler: SketchSampler, batch: AnsweredBatch) -> None:
    """Add the images of a batch to the drift sketch, without those of the gallery that embeddings are compared with."""
    queries = [number for number, sample in enumerate(batch.samples) if not sample.gallery]
    if queries:
        sampler.add(batch.images[queries], {name: array[queries] for name, array in batch.outputs.items()})


def make_golden(runner: Runner, samples: Sequence[Sample], task: TrainingTask) -> Golden:
    """Create up to 32 golden images that cover as many labels as possible, with the model's answers."""
    spec = runner.spec
    selected = select_golden_samples(samples, task)
    loaded = [load_sample(sample, spec.preprocess) for sample in selected]
    images = np.stack([image for image, _ in loaded])
    targets = default_collate([task.target(s.truth, s.gallery, spec.preprocess, spec) for s in selected])
    return Golden(
        images=images,
        outputs=runner.infer(images),
        targets=task.golden_targets(targets),
        geometries=pack_geometries(geometry for _, geometry in loaded),
    )


def select_golden_samples(samples: Sequence[Sample], task: TrainingTask) -> list[Sample]:
    """Select up to 32 samples, in turn from each label; four at a time if the task compares samples."""
    group_size = 4 if task.compares_samples else 1
    seen: Counter[str] = Counter()
    ranked = []
    for number, sample in enumerate(samples):
        label = next(iter(task.classes(sample.truth)), "")
        ranked.append((seen[label] // group_size, natural_sort_key(label), number, sample))
        seen[label] += 1
    return [sample for *_, sample in sorted(ranked, key=lambda entry: entry[:3])[:MAX_IMAGES]]
