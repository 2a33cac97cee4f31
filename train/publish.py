"""What a run leaves behind: checkpoints with their lineage, and golden images with the answers given to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from model.golden import GOLDEN_FILE, MAX_IMAGES, Golden
from model.network import Network, save_network
from model.runners.base import Runner
from model.runners.pytorch import TorchRunner
from model.spec import Lineage
from train.config import Config
from train.data import Splits
from train.dataset import load_sample
from train.evaluate import measure
from train.run_folder import RunFolder, git_revision
from train.samples import Sample, natural
from train.tasks import TRAINING_TASKS

GOLDEN_NAMES = {"best": GOLDEN_FILE, "last": "last.golden.npz"}


def publish(which: str, network: Network, splits: Splits, config: Config, run: RunFolder) -> dict[str, float]:
    """Write the `best` or `last` checkpoint and its golden images; returns the metrics on val and test."""
    runner = TorchRunner(network, origin=str(run.checkpoint(which)))
    parts = {"val": splits.val, "test": splits.test}
    metrics = {f"{part}_{k}": v for part, samples in parts.items() for k, v in measure(runner, samples).items()}
    lineage = Lineage(
        data_fingerprint=splits.fingerprint,
        config=config.model_dump(mode="json"),
        git_revision=git_revision(),
        seed=config.seed,
        metrics=metrics,
    )
    # The checkpoint comes last: where there is one, its golden images are there too.
    golden_of(runner, splits.val).save(run.path / GOLDEN_NAMES[which])
    save_network(run.checkpoint(which), network, network.spec.model_copy(update={"lineage": lineage}))
    return metrics


def golden_of(runner: Runner, samples: Sequence[Sample]) -> Golden:
    """Up to 32 pictures of as many labels as there are, with the model's answers."""
    spec = runner.spec
    chosen = _spread(samples, MAX_IMAGES)
    images = np.stack([load_sample(sample, spec.preprocess) for sample in chosen])
    targets = TRAINING_TASKS[spec.task].targets([sample.label for sample in chosen], spec.labels)
    return Golden(images=images, outputs=runner.infer(images), targets=targets)


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The first of each label, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for sample in samples:
        ranked.append((seen[sample.label], natural(sample.label), sample))
        seen[sample.label] += 1
    return [sample for _, _, sample in sorted(ranked)[:count]]
