"""Where a model comes from: our checkpoint, or someone else's state dict, as a network with its spec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from builder.judge import Training
from builder.options import Foreign
from builder.terms import Terms, in_terms
from model.backbones import architecture_of, timm_normalize, timm_preprocess
from model.errors import DataError, InputError, SpecError
from model.files import sha256_of
from model.golden import MAX_IMAGES, Golden, beside_checkpoint, packed
from model.network import Network, load_network, load_weights
from model.preprocess import ImageError, Preprocess, load_file, pictures_below
from model.runners.pytorch import TorchRunner
from model.spec import Lineage, ModelSpec, Normalize, Question, image_input
from model.tasks import task_for
from model.weights import map_weights, read_foreign_weights

PHOTOS = Path(__file__).parent / "photos"


@dataclass(frozen=True)
class Source:
    """A network ready to export, and how it was come by."""

    path: Path
    network: Network
    golden: Golden | None
    description: str
    trained: Network | None = None
    """Where other terms are asked: the network in those it was trained with."""

    @property
    def training(self) -> Training | None:
        """What training left to be recalled, None without a golden sample."""
        if self.golden is None:
            return None
        return Training(TorchRunner(self.trained or self.network, origin="the checkpoint"), self.golden)

    def asked_in(self, terms: Terms) -> Source:
        """The same source asked in other terms. Raises InputError where its task knows no such term."""
        return replace(self, network=in_terms(self.network, terms), trained=self.network)


def source_from_checkpoint(path: Path, name: str | None = None) -> Source:
    """Open a checkpoint that `train` wrote. Raises CheckpointError, SpecError, ArtifactError."""
    network = load_network(path)
    if name:
        network.spec = network.spec.renamed(name)
    return Source(path, network, beside_checkpoint(path), f"checkpoint {path.name}")


def source_from_state_dict(path: Path, foreign: Foreign, name: str | None = None) -> Source:
    """Bring someone else's weights into a timm network. Raises CheckpointError, SpecError, InputError."""
    network = Network(_spec_of(foreign))
    mapping = map_weights(read_foreign_weights(path), network.backbone.state_dict(), origin=str(path))
    load_weights(network.backbone, mapping.weights, origin=str(path))
    note = f"{path.name} into timm {foreign.model}: {mapping.how}"
    lineage = Lineage(parent=f"sha256:{sha256_of(path)}", note=note)
    network.spec = network.spec.model_copy(update={"lineage": lineage})
    if name:
        network.spec = network.spec.renamed(name)
    return Source(path, network.eval(), None, note)


def golden_from_images(images: Path, preprocess: Preprocess) -> Golden:
    """Up to 32 pictures of a folder, evenly picked, preprocessed. Raises DataError when fewer than two can be read."""
    if not images.is_dir():
        raise DataError(f"{images}: not a folder of pictures")
    files = pictures_below(images)
    loaded, broken = [], []
    for path in _evenly(files, MAX_IMAGES):
        try:
            loaded.append(load_file(path, preprocess))
        except ImageError as error:
            broken.append(f"  {path}: {error}")
    if len(loaded) < 2:
        problems = "\n".join(["", *broken[:10]])
        raise DataError(f"{images}: a verdict needs at least two readable pictures, found {len(loaded)}{problems}")
    return Golden(
        np.stack([image for image, _ in loaded]),
        {},
        geometries=packed(geometry for _, geometry in loaded),
        source=f"{len(loaded)} pictures of {images}",
    )


def builtin_golden(preprocess: Preprocess) -> Golden:
    """The photographs that come with the builder, for sources that bring no pictures."""
    golden = golden_from_images(PHOTOS, preprocess)
    return replace(golden, source=f"{len(golden.images)} photographs of the builder's own")


def _spec_of(foreign: Foreign) -> ModelSpec:
    labels = _read_labels(foreign.labels)
    preprocess = timm_preprocess(foreign.model)
    if foreign.size:
        height, width = foreign.size
        preprocess = Preprocess(height, width, crop_ratio=preprocess.crop_ratio, interpolation=preprocess.interpolation)
    default = timm_normalize(foreign.model)
    question = Question(task="multiclass", labels=tuple(labels))
    return ModelSpec(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", foreign.model),
        **question.model_dump(),
        architecture=architecture_of(foreign.model, preprocess.height, preprocess.width),
        input=image_input(preprocess),
        outputs=task_for(question).outputs(image_input(preprocess)),
        preprocess=preprocess,
        normalize=Normalize(mean=foreign.mean or default.mean, std=foreign.std or default.std),
    )


def _read_labels(path: Path) -> list[str]:
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the labels ({error}); expected one a line, in UTF-8") from error
    while labels and not labels[-1]:
        labels.pop()
    blank = [number for number, label in enumerate(labels, 1) if not label]
    if blank:
        raise SpecError(f"{path}: no label in line {', '.join(map(str, blank[:5]))}; expected one a line")
    return labels


def _evenly(files: Sequence[Path], count: int) -> Sequence[Path]:
    if len(files) <= count:
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, count).round().astype(int)]
