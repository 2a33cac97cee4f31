"""Someone else's state dict, brought into a timm network."""

from __future__ import annotations

import re
from pathlib import Path

from builder.options import Foreign
from builder.sources.base import NetworkSource
from builder.sources.labels import read_labels
from model.backbones import architecture_of, timm_normalize, timm_preprocess
from model.errors import InputError
from model.files import sha256_of
from model.network import Network, load_weights
from model.preprocess import Preprocess
from model.spec import Lineage, ModelSpec, Normalize, Question, image_input
from model.tasks import task_for
from model.weights import State, class_count, map_weights, read_foreign

_OF_GRAPHS = ("--layout", "--activation")


def source_from_state_dict(path: Path, foreign: Foreign, name: str | None = None) -> NetworkSource:
    """Bring someone else's weights into a timm network. Raises CheckpointError, SpecError, InputError."""
    foreign.refuse(_OF_GRAPHS, f"{path.name} is a state dict, whose network is built here")
    if foreign.model is not None:
        timm_preprocess(foreign.model)  # a wrong name is told of before a large file is read
    weights = read_foreign(path)
    model = foreign.model or weights.architecture
    _check_told(path, weights.state, model, foreign)
    network = Network(_spec_of(str(model), foreign))
    mapping = map_weights(weights.state, network.backbone.state_dict(), origin=str(path))
    load_weights(network.backbone, mapping.weights, origin=str(path))
    said = "" if foreign.model else ", as the file says"
    note = f"{path.name} into timm {model}{said}: {mapping.how}"
    lineage = Lineage(parent=f"sha256:{sha256_of(path)}", note=note)
    network.spec = network.spec.model_copy(update={"lineage": lineage})
    if name:
        network.spec = network.spec.renamed(name)
    return NetworkSource(path, None, note, network.eval())


def preprocess_like(model: str, size: tuple[int, int] | None) -> Preprocess:
    """How timm documents that pictures are prepared for a model, at another size where one is given."""
    default = timm_preprocess(model)
    if size is None:
        return default
    return Preprocess(*size, crop_ratio=default.crop_ratio, interpolation=default.interpolation)


def network_spec(model: str, question: Question, foreign: Foreign) -> ModelSpec:
    """The spec of a timm network that answers a question, prepared for as timm documents or as was said."""
    preprocess = preprocess_like(model, foreign.size)
    default = timm_normalize(model)
    return ModelSpec(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", model),
        **question.model_dump(),
        architecture=architecture_of(model, preprocess.height, preprocess.width),
        input=image_input(preprocess),
        outputs=task_for(question).outputs(image_input(preprocess)),
        preprocess=preprocess,
        normalize=Normalize(mean=foreign.mean or default.mean, std=foreign.std or default.std),
    )


def _spec_of(model: str, foreign: Foreign) -> ModelSpec:
    task = foreign.task or "multiclass"
    labels = () if foreign.labels is None else read_labels(foreign.labels)
    return network_spec(model, Question(task=task, labels=labels), foreign)


def _check_told(path: Path, state: State, model: str | None, foreign: Foreign) -> None:
    """What a state dict cannot say must be said."""
    if foreign.task not in (None, "multiclass", "multilabel"):
        raise InputError(
            f"--task {foreign.task}: a state dict is brought into a timm classifier, multiclass or multilabel. For "
            "anything else export it to ONNX or TorchScript where its code is, and give that file"
        )
    missing = []
    if model is None:
        missing.append("--model TIMM_NAME")
    if foreign.labels is None:
        found = class_count(state)
        many = "" if found is None else f", {found[0]} of them going by the last layer, {found[1]}"
        missing.append(f"--labels FILE (one label a line{many})")
    if missing:
        raise InputError(f"{path}: someone else's weights need {' and '.join(missing)}")
