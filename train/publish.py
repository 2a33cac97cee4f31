"""What a run leaves behind: checkpoints with their lineage, and golden images with the answers given to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from torch.utils.data import default_collate

from model.golden import GOLDEN_FILE, MAX_IMAGES, Golden, packed
from model.network import save_network
from model.runners.base import Runner
from model.runners.pytorch import TorchRunner
from model.spec import Lineage
from train.dataset import load_sample
from train.measure import Answered, Figures, measure
from train.plan import Plan
from train.run_folder import RunFolder, git_revision
from train.samples import Sample
from train.tasks import TrainingTask
from train.tasks.base import natural


def publish(
    which: str,
    plan: Plan,
    run: RunFolder,
    warnings: tuple[str, ...] = (),
    watch: Callable[[Answered], None] | None = None,
) -> Figures:
    """Write a checkpoint (`best`, `last`, …) and its golden images; returns the metrics on val and test.

    warnings: of the run, for the lineage. watch: sees each batch of answers to the val pictures.
    """
    network, splits = plan.network, plan.splits
    runner = TorchRunner(network, origin=str(run.checkpoint(which)))
    parts = {"val": splits.val, "test": splits.test}
    metrics = {
        f"{part}_{name}": value
        for part, samples in parts.items()
        if samples
        for name, value in measure(
            runner, (*splits.base, *samples), plan.task, watch if part == "val" else None
        ).items()
    }
    lineage = Lineage(
        data_fingerprint=splits.fingerprint,
        config=plan.config.model_dump(mode="json"),
        git_revision=git_revision(),
        seed=plan.config.seed,
        metrics={name: value for name, value in metrics.items() if value is not None},
        warnings=warnings,
        parent=None if plan.config.model.weights is None else str(plan.config.model.weights),
    )
    # The checkpoint comes last: where there is one, its golden images are there too.
    golden = GOLDEN_FILE if which == "best" else f"{which}.golden.npz"
    golden_of(runner, splits.val, plan.task).save(run.path / golden)
    save_network(run.checkpoint(which), network, network.spec.model_copy(update={"lineage": lineage}))
    return metrics


def golden_of(runner: Runner, samples: Sequence[Sample], task: TrainingTask) -> Golden:
    """Up to 32 pictures of as many labels as there are, with the model's answers."""
    spec = runner.spec
    chosen = golden_samples(samples, task)
    loaded = [load_sample(sample, spec.preprocess) for sample in chosen]
    images = np.stack([image for image, _ in loaded])
    targets = default_collate([task.target(s.truth, s.gallery, spec.preprocess, spec) for s in chosen])
    return Golden(
        images=images,
        outputs=runner.infer(images),
        targets=task.golden_targets(targets),
        geometries=packed(geometry for _, geometry in loaded),
    )


def golden_samples(samples: Sequence[Sample], task: TrainingTask) -> list[Sample]:
    """The first of each label, then the second of each, and so on, up to 32; in fours where a task compares them."""
    together = 4 if task.compares else 1
    seen: Counter[str] = Counter()
    ranked = []
    for number, sample in enumerate(samples):
        label = next(iter(task.classes(sample.truth)), "")
        ranked.append((seen[label] // together, natural(label), number, sample))
        seen[label] += 1
    return [sample for *_, sample in sorted(ranked, key=lambda entry: entry[:3])[:MAX_IMAGES]]
