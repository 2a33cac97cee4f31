"""Load a third-party state dict into a network of timm or torchvision."""

from __future__ import annotations

import re
from pathlib import Path

from builder.sources.base import NetworkSource
from builder.sources.foreign_options import apply_options, describe_preprocessing, read_labels
from tritonkit.errors import CheckpointError, InputError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.networks.backbones import architecture_of, recipe_of, torchvision_name_hint
from tritonkit.networks.network import Network, load_weights
from tritonkit.networks.pretrained_recipe import PretrainedRecipe
from tritonkit.networks.torchvision_networks import is_torchvision
from tritonkit.networks.weight_matching import map_weights
from tritonkit.networks.weights import class_count, read_foreign
from tritonkit.spec import Lineage, ModelSpec, TaskSpec, image_input
from tritonkit.system.files import file_sha256
from tritonkit.tasks import task_for


def source_from_state_dict(path: Path, foreign: ForeignModelOptions, name: str | None = None) -> NetworkSource:
    """Load third-party weights into a network of timm or torchvision.

    Raises CheckpointError, SpecError, InputError.
    """
    foreign.refuse(
        ("--layout", "--activation", "--graph-output"), f"{path.name} is a state dict, whose network is built here"
    )
    if foreign.model is not None:
        recipe_of(foreign.model)  # reports a wrong name before a large file is read
    weights = read_foreign(path)
    model = foreign.model or weights.architecture
    if foreign.task not in (None, "multiclass", "multilabel"):
        raise InputError(
            f"--task {foreign.task}: a state dict is loaded into a classifier, multiclass or multilabel. For another "
            "task, export the model to ONNX with its own code, and pass that file",
            code="option.task_of_state_dict",
        )
    missing = ["--model TIMM_NAME"] if model is None else []
    if foreign.labels is None:
        classes = class_count(weights.state)
        count = "" if classes is None else f"; the last layer, {classes[1]}, has {classes[0]} classes"
        missing.append(f"--labels FILE (one label per line{count})")
    if model is None or foreign.labels is None:
        hint = "" if model else "; for a torchvision network use --model torchvision/NAME"
        raise InputError(
            f"{path}: third-party weights need {' and '.join(missing)}{hint}", code="option.missing_for_weights"
        )
    task_spec = TaskSpec(task=foreign.task or "multiclass", labels=read_labels(foreign.labels))
    network = Network(network_spec(model, task_spec, foreign))
    network.check_patch_multiple("--size")
    try:
        mapping = map_weights(weights.state, network.backbone.state_dict(), origin=str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{torchvision_name_hint(model)}", code=error.code) from error
    load_weights(network.backbone, mapping.weights, origin=str(path))
    origin = "" if foreign.model else ", named in the file"
    library = "" if is_torchvision(model) else "timm "
    parts = [f"{path.name} into {library}{model}{origin}: {mapping.description}", weights.note]
    description = "; ".join(filter(None, parts))
    return network_source(network, path, description, recipe_of(model, library_weights=False), foreign, name)


def network_source(
    network: Network,
    path: Path,
    description: str,
    recipe: PretrainedRecipe,
    foreign: ForeignModelOptions,
    name: str | None,
) -> NetworkSource:
    """The source of a network with third-party weights. path: the file of the weights. name: the model's new name."""
    note = f"{description}; {describe_preprocessing(network.spec, foreign, recipe)}"
    lineage = Lineage(parent=f"sha256:{file_sha256(path)}", note=note)
    network.spec = network.spec.model_copy(update={"lineage": lineage})
    if name:
        network.spec = network.spec.renamed(name)
    return NetworkSource(path, None, note, network.eval())


def network_spec(model: str, task_spec: TaskSpec, foreign: ForeignModelOptions) -> ModelSpec:
    """Create the spec of a network; preprocessing follows its library's recipe, replaced where options are set."""
    preprocess, normalize = apply_options(foreign, recipe_of(model, library_weights=False))
    return ModelSpec(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", model),
        **task_spec.model_dump(),
        architecture=architecture_of(model, preprocess.height, preprocess.width, "--size"),
        input=image_input(preprocess),
        outputs=task_for(task_spec).outputs(image_input(preprocess)),
        preprocess=preprocess,
        normalize=normalize,
    )
