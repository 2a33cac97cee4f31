"""The parts of a training configuration. Loads without torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from model.preprocess import Fit, Interpolation, Preprocess
from model.spec import Frozen, Name
from train.export_rules import FORMATS, contradiction, known_accelerator
from train.mask_values import MaskValues

# os.path's version leaves an unknown user's name as it is; Path's raises RuntimeError.
UserPath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]  # noqa: PTH111
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, in 0..1."""


class Section(Frozen):
    """Base of a configuration's parts: besides unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)


class Named(Section):
    """Something found by its name, with arguments: `name: X` and its arguments beside it, or just `X`."""

    name: str
    arguments: dict[str, JsonValue] = {}


ClassWeights = (
    Literal["balanced"]
    | tuple[PositiveFloat, ...]
    | Annotated[dict[str, PositiveFloat], BeforeValidator(lambda value: _by_text(value))]
)


def _by_text(value: Any) -> Any:
    """YAML reads the label 3 as a number."""
    return {str(key): weight for key, weight in value.items()} if isinstance(value, dict) else value


class LossTerm(Named):
    """One loss of a weighted sum."""

    weight: PositiveFloat = 1.0
    """Its place in the sum."""
    class_weights: ClassWeights | None = None
    """`balanced`, a weight for each label in their order, or weights by label; for cross_entropy, bce, focal."""
    miner: Annotated[Named, BeforeValidator(lambda value: _spelled_out(value, Named))] | None = None
    """For metric learning: which pairs to learn from, a name of pytorch_metric_learning.miners."""

    @field_validator("weight", mode="before")
    @classmethod
    def _is_of_the_term(cls, value: Any) -> Any:
        if isinstance(value, list | tuple | dict | str):
            raise ValueError("is the term's place in the sum, one number; weights of classes go under class_weights")  # noqa: TRY004 - pydantic's way
        return value


def _spelled_out(value: Any, kind: type[Named]) -> Any:
    """`X` becomes `{name: X}`, and keys that the section does not have become arguments."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict) or "arguments" in value:
        return value
    own = {key: entry for key, entry in value.items() if key in kind.model_fields}
    return {**own, "arguments": {key: entry for key, entry in value.items() if key not in own}}


def _terms(value: Any) -> Any:
    return [_spelled_out(term, LossTerm) for term in (value if isinstance(value, list | tuple) else [value])]


Losses = Annotated[tuple[LossTerm, ...], BeforeValidator(_terms), Field(min_length=1)]
Callback = Annotated[Named, BeforeValidator(lambda value: _spelled_out(value, Named))]


class HeadConfig(Section):
    """What the model is asked, and how it learns the answer."""

    task: Name = "multiclass"
    """multiclass, multilabel, embedding, segmentation, heads, or a plugin's."""
    loss: Losses | None = None
    """A name, or a list of terms with weights; default: the task's usual one. For rare classes:
    {name: cross_entropy, class_weights: balanced}, or a list in the order of the labels, or {cat: 2.0}."""
    column: str | None = None
    """Of a CSV or JSON: where the truth stands; default: the task's usual one, or the head's name."""
    thresholds: dict[str, FiniteFloat] = {}
    """By label, the probability from which it holds (multilabel, segmentation of two labels)."""
    embedding_size: PositiveInt = 128
    """Length of an embedding."""


class WeightedHead(HeadConfig):
    """One of several heads."""

    weight: PositiveFloat = 1.0
    """Of its loss in the sum."""


class DataConfig(Section):
    """The pictures. A part that the data does not bring is split off with the run's seed."""

    path: UserPath
    """A folder of class folders; a CSV or JSON; or a folder with parts `train`, `val`, `test` (and `base`) of those."""
    reader: str | None = None
    """folder, csv, json, jsonl, or a plugin's; default: by what `path` is."""
    columns: dict[Literal["image", "label", "labels", "mask"], str] = {}
    """Of a table with other column names: which is which, such as {image: filename, label: class}."""
    masks: UserPath | None = None
    """Segmentation: the folder of masks for a `path` that is a folder of pictures; paired by name, any extension."""
    mask_suffix: str = ""
    """Segmentation: what the names of masks have besides those of pictures, such as _mask."""
    mask_values: MaskValues | None = None
    """Segmentation: by class, the values in masks: a number, a list, a range or a colour, such as
    {background: 0, nucleus: 1-255, ignore: 65535}; `nonzero` is every other value. What stands under `ignore` is not
    judged."""
    labels: tuple[str, ...] | None = None
    """Segmentation: the names of the class numbers in the masks, from 0; default: background, foreground.
    Multilabel: the columns that are labels; default: all but that of the picture."""
    top_classes: PositiveInt | None = None
    """Keep only the most common classes, so many."""
    split_by: Literal["picture", "class"] | None = None
    """class: no class is in two parts (for classes never seen); default: class for embeddings, else picture."""
    split_column: str | None = None
    """A column of train, val and test, which says in which part a picture is."""
    group: str | None = None
    """A column, such as patient: what is equal there stays in one part."""
    per_class: Annotated[int, Field(ge=2)] | None = None
    """Pictures of each class in a batch, for losses that compare them; default: pictures come at random."""
    val_ratio: float = Field(default=0.15, gt=0, lt=1)
    test_ratio: float = Field(default=0.15, ge=0, lt=1)

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> DataConfig:
        if self.val_ratio + self.test_ratio >= 1:
            raise ValueError(f"val_ratio + test_ratio leave nothing to train on ({self.val_ratio} + {self.test_ratio})")
        if self.group is not None and self.split_by == "class":
            raise ValueError("group and split_by: class both say what stays together; give one")
        return self


class ModelConfig(Section):
    """The network: a name of timm, for segmentation one of segmentation-models-pytorch, or a plugin's."""

    name: str
    encoder: str = "resnet34"
    """Segmentation: the encoder, a name of segmentation-models-pytorch or of timm."""
    pretrained: bool = False
    """Start from the library's weights, which are downloaded."""
    weights: UserPath | None = None
    """Start from a checkpoint, ours or someone else's; what does not fit (another number of classes) starts anew."""
    arguments: dict[str, JsonValue] = {}
    """More arguments of its constructor."""

    @model_validator(mode="after")
    def _start_from_one(self) -> ModelConfig:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights both say what to start from; give one")
        return self


class ImageConfig(Section):
    """The size of the model's input, and how a picture is fitted to it."""

    size: PositiveInt | None = None
    """A square's side; or give `height` and `width`."""
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    fit: Fit = "crop"
    """crop keeps the centre, pad adds borders, squash changes the shape."""
    crop_ratio: float = 1.0
    interpolation: Interpolation = "bilinear"
    """nearest, bilinear, bicubic or lanczos."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of borders, red, green, blue in 0..255."""

    @model_validator(mode="after")
    def _is_one_size(self) -> ImageConfig:
        sides = (self.height, self.width)
        if (None in sides) if self.size is None else (sides != (None, None)):
            raise ValueError("expected `size`, or both `height` and `width`")
        _ = self.preprocess
        return self

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that goes into the model's spec."""
        height, width = self.height or self.size or 0, self.width or self.size or 0
        return Preprocess(height, width, self.fit, self.crop_ratio, self.interpolation, self.fill)


class AugmentConfig(Section):
    """Random changes of training pictures; 0 turns one off, `enabled: false` all of them."""

    enabled: bool = True
    flip: Share = 0.5
    """Probability of a mirror image, left to right."""
    flip_vertical: Share = 0.0
    """Probability of a mirror image, upside down."""
    shift: Share = 0.05
    """Largest shift, as a share of the side."""
    scale: float = Field(default=0.1, ge=0, lt=1)
    """Zoom in 1 - scale .. 1 + scale."""
    rotate: float = Field(default=10.0, ge=0, le=180)
    """Largest turn either way, in degrees."""
    color: Share = 0.2
    """Largest relative change of brightness, contrast and saturation."""
    gamma: float = Field(default=0.0, ge=0, lt=1)
    """Gamma in 1 - gamma .. 1 + gamma."""


class OptimizerConfig(Section):
    """Norms and biases are never decayed."""

    name: str = "adamw"
    """A name of timm.optim.list_optimizers()."""
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    arguments: dict[str, JsonValue] = {}
    """More arguments of its constructor, such as momentum."""


class SchedulerConfig(Section):
    """The learning rate rises linearly for `warmup` of all steps, then follows the name."""

    name: str = "cosine"
    """cosine, linear, constant, multistep, exponential, or a class of torch.optim.lr_scheduler."""
    warmup: Share = 0.05
    """As a share of a stage's steps."""
    milestones: tuple[Share, ...] = (0.6, 0.9)
    """multistep: after which shares of the steps the rate is multiplied with gamma."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """multistep: at each milestone; exponential: what is left of the rate at the end."""
    arguments: dict[str, JsonValue] = {}
    """Of a class of torch.optim.lr_scheduler, which is stepped after each batch and has no warm-up of ours;
    total_steps, T_max and total_iters are those of the training where they are left out."""


Accelerators = Annotated[
    tuple[Annotated[str, AfterValidator(known_accelerator)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


class ExportConfig(Section):
    """What `builder export` is asked for when training ends: one format, ONNX in fp32 where none is named."""

    onnx: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """ONNX, in fp32, fp16, bf16 or int8."""
    trt: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """A TensorRT plan, in fp32, fp16, bf16 or int8; needs a GPU."""
    rtx: Literal["fp32", "fp16", "int8"] | None = None
    """ONNX with an engine of TensorRT for RTX beside it, in fp32, fp16 or int8."""
    openvino: Literal["fp32", "bf16", "int8"] | None = None
    """OpenVINO, in fp32, bf16 or int8."""
    torchscript: bool = False
    """A TorchScript trace."""
    strict: bool = False
    """Whether nothing is published where the precision does not keep the answers, in place of another one."""
    in_container: bool = False
    """A plan is built and proven in the Triton image of .env, by Docker."""
    repository: UserPath = Path("model_repository")
    max_batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The largest batch to prove and serve; default: as before, or 32."""
    config: UserPath | None = None
    """A config.pbtxt of one's own: what it says of serving is taken over. The keys below go before it."""
    kind: Literal["auto", "cpu", "gpu"] | None = None
    """Where instances run."""
    instances: PositiveInt | None = None
    """Instances of the model; on GPUs, of each."""
    gpus: tuple[NonNegativeInt, ...] | None = None
    """The GPUs to run on, such as [0, 1]; default: all."""
    dynamic_batching: bool | None = None
    """Whether Triton puts requests together; default: as before, or yes."""
    accelerator: Accelerators = ()
    """Of ONNX: tensorrt, cuda or openvino, with parameters as NAME:key=value,…; none removes those of before."""
    keep: PositiveInt | None = None
    """Versions to keep; older ones are deleted, unless they are marked or served."""

    @field_validator(*FORMATS, "in_container", "kind", "gpus", "accelerator")
    @classmethod
    def _fits_what_stands_above(cls, value: Any, info: ValidationInfo) -> Any:
        if value and (problem := contradiction(str(info.field_name), value, info.data)):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _bf16_has_kernels(self) -> ExportConfig:
        if self.onnx == "bf16" and not any(word.startswith("tensorrt") for word in self.accelerator):
            raise ValueError(
                "onnx bf16 has no kernels in ONNX Runtime itself; give accelerator: tensorrt, or take fp16"
            )
        return self

    @property
    def format(self) -> str:
        """The one that is named, ONNX where none is."""
        return next((name for name in FORMATS if getattr(self, name)), "onnx")
