"""Create the spec of a third-party graph, which does not contain its task and its preprocessing.

The source's description names every assumed value: a graph agrees with itself under any mean and std, so no verdict
can show wrong ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builder.sources.foreign_options import apply_options, describe_fit, describe_normalize, read_labels
from builder.sources.graph import FinalStep, GraphSignature, Raw
from tritonkit.errors import InputError
from tritonkit.export_options import ForeignModelOptions, ForeignTask, Layout
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.pretrained_recipe import PretrainedRecipe
from tritonkit.spec import Architecture, Lineage, ModelSpec, Normalize, TaskSpec, image_input
from tritonkit.system.files import file_sha256
from tritonkit.tasks import task_for
from tritonkit.tasks.multiclass import SUM_TOLERANCE


@dataclass(frozen=True)
class OutputDecision:
    """The task of a graph's output, and the step that computes the task's output from it."""

    task_spec: TaskSpec
    final_step: FinalStep
    reason: str


def preprocess_of(path: Path, size: tuple[int | None, int | None], foreign: ForeignModelOptions) -> Preprocess:
    """Choose the preprocessing for a graph. size: its height and width, None where dynamic. Raises InputError.

    A dynamic side is that of --size, else that of the recipe.
    """
    recipe, unset = _recipe(foreign), (None, None)
    defaults = (recipe.preprocess.height, recipe.preprocess.width) if foreign.model is not None else unset
    sides: list[int] = []
    for name, own, option, default in zip(("height", "width"), size, foreign.size or unset, defaults, strict=True):
        if own is not None and option is not None and own != option:
            raise InputError(
                f"{path}: takes {name} {own}, but --size sets {option}; leave --size out, or export the graph again",
                code="option.size_of_graph",
            )
        side = own or option or default
        if side is None:
            raise InputError(f"{path}: its {name} is dynamic; set --size N or HEIGHTxWIDTH", code="option.size_missing")
        sides.append(side)
    preprocess, _ = apply_options(foreign.model_copy(update={"size": tuple(sides)}), recipe)
    return preprocess


def _recipe(foreign: ForeignModelOptions) -> PretrainedRecipe:
    """The recipe of the model in --model, else that of most models, whose size is not used."""
    if foreign.model is not None:
        from tritonkit.networks.backbones import recipe_of

        return recipe_of(foreign.model)
    is_dense = foreign.task == "segmentation"
    return PretrainedRecipe(
        # Most ImageNet models crop the centre 224 of 256 pixels.
        Preprocess(1, 1, "squash") if is_dense else Preprocess(1, 1, crop_ratio=0.875),
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "assumed",
    )


def decide_output(
    path: Path, raw: Raw, signature: GraphSignature, foreign: ForeignModelOptions, size: tuple[int, int]
) -> OutputDecision:
    """Choose task and final step for a graph's output. Raises InputError where the output does not fit the options.

    raw: the graph's outputs for photographs, [N, ...].
    """
    task: ForeignTask = foreign.task or "multiclass"
    if task == "segmentation":
        return _decide_mask(path, raw, signature.layout, foreign, size)
    if raw.ndim != 2 and not (raw.ndim > 2 and set(raw.shape[2:]) == {1}):
        raise InputError(f"{path}: {_shape_message(raw, task, size)}", code="onnx.output_shape")
    if not np.issubdtype(raw.dtype, np.floating):
        raise InputError(
            f"{path}: output {signature.output} is {raw.dtype}; expected floating point for a {task} model",
            code="onnx.output_type",
        )
    if task == "embedding":
        foreign.refuse(("--activation",), "an embedding is only scaled to length 1")
        task_spec = TaskSpec(task=task, embedding_size=raw.shape[1])
        return OutputDecision(task_spec, "unit length", "scaled to length 1")
    task_spec = TaskSpec(task=task, labels=_labels(path, raw.shape[1], foreign))
    final_step, why = _activation(path, raw.reshape(len(raw), -1), task, foreign)
    return OutputDecision(task_spec, final_step, why)


def graph_spec(
    path: Path, signature: GraphSignature, preprocess: Preprocess, task_spec: TaskSpec, foreign: ForeignModelOptions
) -> ModelSpec:
    """Create the spec of a graph. Raises SpecError."""
    image = image_input(preprocess)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem).lstrip("._-")[:128] or "model"
    return ModelSpec(
        name=name,
        **task_spec.model_dump(),
        architecture=Architecture(library="graph", name=path.stem),
        input=image,
        outputs=task_for(task_spec).outputs(image),
        preprocess=preprocess,
        normalize=normalize_of(signature, foreign),
        lineage=Lineage(parent=f"sha256:{file_sha256(path)}"),
    )


def normalize_of(signature: GraphSignature, foreign: ForeignModelOptions) -> Normalize:
    """Choose mean and std for a graph; one with uint8 input normalizes by itself. Raises InputError."""
    if signature.dtype == "uint8":
        foreign.refuse(
            ("--mean", "--std"), f"input {signature.input} takes uint8 pixels, so the graph normalizes by itself"
        )
        return Normalize(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))
    default = _recipe(foreign).normalize
    return Normalize(mean=foreign.mean or default.mean, std=foreign.std or default.std)


def describe_graph(
    signature: GraphSignature, spec: ModelSpec, decision: OutputDecision, foreign: ForeignModelOptions
) -> str:
    """Describe input, preprocessing and output of a graph, with the origin of each assumed value."""
    preprocess = spec.preprocess
    size = f"{preprocess.height} x {preprocess.width}"
    recipe = _recipe(foreign)
    if signature.dtype == "uint8":
        normalization = "pixels unchanged"
    else:
        origin = recipe.origin if foreign.model else "ImageNet's, assumed"
        normalization = describe_normalize(spec.normalize, foreign, origin)
    return (
        f"takes {signature.input!r} as {signature.dtype} {signature.layout} {size} RGB, {normalization}; "
        f"{describe_fit(preprocess, foreign, recipe.source)}; gives {signature.output!r}: {decision.reason}"
    )


def _labels(path: Path, count: int, foreign: ForeignModelOptions) -> tuple[str, ...]:
    if foreign.labels is None:
        raise InputError(
            f"{path}: outputs {count} values per image; name them with --labels FILE ({count} lines), or set --task "
            "embedding",
            code="option.labels_missing",
        )
    labels = read_labels(foreign.labels)
    if len(labels) != count:
        raise InputError(
            f"{foreign.labels}: {len(labels)} labels, but {path} outputs {count} values per image",
            code="source.label_count",
        )
    return labels


def _activation(path: Path, raw: Raw, task: ForeignTask, foreign: ForeignModelOptions) -> tuple[FinalStep, str]:
    default: FinalStep = "softmax" if task == "multiclass" else "sigmoid"
    if foreign.activation == "none":
        return "none", "unchanged, by --activation"
    if foreign.activation is not None and foreign.activation != default:
        raise InputError(
            f"--activation {foreign.activation}: a {task} model ends in {default}; set {default} or none",
            code="option.activation",
        )
    low, high = float(raw.min()), float(raw.max())
    in_range = low >= 0 and high <= 1 + SUM_TOLERANCE
    values = f"{low:.3g}..{high:.3g} on {len(raw)} photographs"
    if foreign.activation is not None:
        return default, f"{default} added, by --activation"
    if not in_range:
        return default, f"logits ({values}), {default} added"
    sums = raw.astype(np.float64).sum(axis=1)
    if task == "multilabel" or bool(np.abs(sums - 1).max() <= SUM_TOLERANCE):
        return "none", f"probabilities ({values}) unchanged"
    raise InputError(
        f"{path}: its values ({values}) are no probabilities, as they sum to {sums.mean():.3g} and not to 1, and may "
        "not be logits; set --task multilabel for independent labels, or --activation softmax or none",
        code="option.activation_missing",
    )


def _decide_mask(
    path: Path, raw: Raw, layout: Layout, foreign: ForeignModelOptions, size: tuple[int, int]
) -> OutputDecision:
    foreign.refuse(("--activation",), "a mask takes the label with the highest value, with or without a softmax")
    if raw.ndim != 4:
        raise InputError(f"{path}: {_shape_message(raw, 'segmentation', size)}", code="onnx.output_shape")
    channel, spatial = (1, raw.shape[2:]) if layout == "NCHW" else (3, raw.shape[1:3])
    if tuple(spatial) != size:
        raise InputError(
            f"{path}: outputs masks of {spatial[0]} x {spatial[1]} for images of {size[0]} x {size[1]}; export it with "
            "its upsampling, so that each pixel has a value",
            code="onnx.mask_size",
        )
    count = raw.shape[channel]
    labels = _labels(path, 2 if count == 1 else count, foreign)
    task_spec = TaskSpec(task="segmentation", labels=labels)
    if count > 1:
        return OutputDecision(task_spec, "argmax", f"a mask of the largest of {count} values for each pixel")
    is_probability = bool(raw.min() >= 0 and raw.max() <= 1)
    final_step: FinalStep = "above 0.5" if is_probability else "above 0"
    return OutputDecision(
        task_spec,
        final_step,
        f"one {'probability' if is_probability else 'logit'} for each pixel, set where {final_step}",
    )


def _shape_message(raw: Raw, task: str, size: tuple[int, int]) -> str:
    shape = ", ".join(map(str, raw.shape[1:]))
    if raw.ndim == 4 and task != "segmentation":
        return f"outputs [{shape}] per image; expected a row of numbers for a {task} model; set --task segmentation"
    expected = f"[labels, {size[0]}, {size[1]}]" if task == "segmentation" else "[labels]"
    return f"outputs [{shape}] per image; expected {expected} for a {task} model. Detection is not supported"
