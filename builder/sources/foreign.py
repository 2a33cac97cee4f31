"""Someone else's state dict, brought into a network of timm or torchvision."""

from __future__ import annotations

import re
from pathlib import Path

from builder.options import ForeignModelOptions
from builder.sources.base import NetworkSource
from builder.sources.labels import read_labels
from builder.sources.pictures import applied, described_pictures
from model.backbones import architecture_of, library_hint, recipe_of
from model.errors import CheckpointError, InputError
from model.files import sha256_of
from model.network import Network, load_weights
from model.spec import Lineage, ModelSpec, TaskSpec, image_input
from model.tasks import task_for
from model.torchvision_networks import is_torchvision
from model.weight_matching import map_weights
from model.weights import State, class_count, read_foreign

_SIZE = "--size"
_OF_GRAPHS = ("--layout", "--activation")


def source_from_state_dict(path: Path, foreign: ForeignModelOptions, name: str | None = None) -> NetworkSource:
    """Bring someone else's weights into a network of timm or torchvision.

    Raises CheckpointError, SpecError, InputError.
    """
    foreign.refuse(_OF_GRAPHS, f"{path.name} is a state dict, whose network is built here")
    if foreign.model is not None:
        recipe_of(foreign.model)  # a wrong name is told of before a large file is read
    weights = read_foreign(path)
    model = foreign.model or weights.architecture
    _check_told(path, weights.state, model, foreign)
    model, recipe = str(model), recipe_of(str(model), library_weights=False)
    network = Network(_spec_of(model, foreign))
    network.check_size(_SIZE)
    try:
        mapping = map_weights(weights.state, network.backbone.state_dict(), origin=str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{library_hint(model)}") from error
    load_weights(network.backbone, mapping.weights, origin=str(path))
    said = "" if foreign.model else ", as the file says"
    library = "" if is_torchvision(model) else "timm "
    parts = [f"{path.name} into {library}{model}{said}: {mapping.how}", weights.note]
    note = "; ".join([*filter(None, parts), described_pictures(network.spec, foreign, recipe)])
    lineage = Lineage(parent=f"sha256:{sha256_of(path)}", note=note)
    network.spec = network.spec.model_copy(update={"lineage": lineage})
    if name:
        network.spec = network.spec.renamed(name)
    return NetworkSource(path, None, note, network.eval())


def network_spec(model: str, question: TaskSpec, foreign: ForeignModelOptions) -> ModelSpec:
    """The spec of a network that answers a question, prepared for as its library documents or as options say."""
    preprocess, normalize = applied(foreign, recipe_of(model, library_weights=False))
    return ModelSpec(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", model),
        **question.model_dump(),
        architecture=architecture_of(model, preprocess.height, preprocess.width, _SIZE),
        input=image_input(preprocess),
        outputs=task_for(question).outputs(image_input(preprocess)),
        preprocess=preprocess,
        normalize=normalize,
    )


def _spec_of(model: str, foreign: ForeignModelOptions) -> ModelSpec:
    task = foreign.task or "multiclass"
    labels = () if foreign.labels is None else read_labels(foreign.labels)
    return network_spec(model, TaskSpec(task=task, labels=labels), foreign)


def _check_told(path: Path, state: State, model: str | None, foreign: ForeignModelOptions) -> None:
    """What a state dict cannot say must be said."""
    if foreign.task not in (None, "multiclass", "multilabel"):
        raise InputError(
            f"--task {foreign.task}: a state dict is brought into a classifier, multiclass or multilabel. For "
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
        hint = "" if model else "; a network of torchvision is --model torchvision/NAME"
        raise InputError(f"{path}: someone else's weights need {' and '.join(missing)}{hint}")
