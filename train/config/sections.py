"""The sections of a training configuration. Loads without torch."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tritonkit.evaluation.config import AuxiliaryConfig, LabelledData, Section, TaskConfig
from tritonkit.images.preprocess import Fit, Interpolation, Preprocess
from tritonkit.options import InputPath, UserPath

Share = Annotated[float, Field(ge=0, le=1)]
"""A fraction in 0..1."""


class NamedComponent(Section):
    """A component with arguments, found by its name: `name: X` with the arguments as more keys, or just `X`."""

    name: str
    arguments: dict[str, JsonValue] = {}


ClassWeights = (
    Literal["balanced"]
    | tuple[PositiveFloat, ...]
    | Annotated[dict[str, PositiveFloat], BeforeValidator(lambda value: _keys_as_text(value))]
)


def _keys_as_text(value: Any) -> Any:
    """Convert keys to text, because YAML reads the label 3 as a number."""
    return {str(key): weight for key, weight in value.items()} if isinstance(value, dict) else value


class LossTerm(NamedComponent):
    """One loss of a weighted sum."""

    weight: PositiveFloat = 1.0
    """Factor of this loss in the sum."""
    class_weights: ClassWeights | None = None
    """`balanced`, a list of weights in the order of the labels, or weights by label; for cross_entropy, bce, focal."""
    miner: Annotated[NamedComponent, BeforeValidator(lambda value: _expand_component(value, NamedComponent))] | None = (
        None
    )
    """Metric learning: the miner that selects pairs to learn from, a class name of pytorch_metric_learning.miners."""

    @field_validator("weight", mode="before")
    @classmethod
    def _check_weight(cls, value: Any) -> Any:
        if isinstance(value, list | tuple | dict | str):
            raise ValueError("expected one number, the factor of this loss; put weights of classes under class_weights")  # noqa: TRY004 - pydantic's way
        return value


def _expand_component(value: Any, kind: type[NamedComponent]) -> Any:
    """Turn `X` into `{name: X}`, and move keys that the section does not have into `arguments`."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict) or "arguments" in value:
        return value
    fields = {key: entry for key, entry in value.items() if key in kind.model_fields}
    return {**fields, "arguments": {key: entry for key, entry in value.items() if key not in fields}}


def _expand_loss_terms(value: Any) -> Any:
    return [_expand_component(term, LossTerm) for term in (value if isinstance(value, list | tuple) else [value])]


Losses = Annotated[tuple[LossTerm, ...], BeforeValidator(_expand_loss_terms), Field(min_length=1)]
Callback = Annotated[NamedComponent, BeforeValidator(lambda value: _expand_component(value, NamedComponent))]


class CsvTracker(Section):
    """metrics.csv in the run folder. Every run has it."""

    name: Literal["csv"] = "csv"


class TensorBoardTracker(Section):
    """Event files of TensorBoard."""

    name: Literal["tensorboard"] = "tensorboard"
    folder: UserPath | None = None
    """Write to `<folder>/<name>/<number>`; default: `tensorboard` in the run folder."""


class MlflowTracker(Section):
    """A run in MLflow. The server and all credentials come from the environment or from `.env`."""

    name: Literal["mlflow"] = "mlflow"
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """Default: the model's name."""
    run_name: str | None = None
    """Default: the model's name and the number of the run."""
    tags: dict[str, str] = {}


_TRACKERS: dict[str, type[Section]] = {"csv": CsvTracker, "tensorboard": TensorBoardTracker, "mlflow": MlflowTracker}
_SECRETS = ("uri", "url", "endpoint", "user", "password", "token", "secret", "key")


def _expand_tracker(value: Any) -> Any:
    """Turn `X` into `{name: X}`; refuse an unknown name, an unknown argument, and all that belongs to `.env`."""
    section = {"name": value} if isinstance(value, str) else value
    if not isinstance(section, dict):
        return section
    name = section.get("name")
    if name not in _TRACKERS:
        raise ValueError(f"unknown tracker {name!r}; expected one of {', '.join(_TRACKERS)}")
    known = _TRACKERS[name].model_fields
    for key in map(str, section.keys() - known.keys()):
        if any(word in key.lower() for word in _SECRETS):
            raise ValueError(
                f"{name} takes no {key!r}: servers and credentials come from the environment or from .env "
                "(MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME, MLFLOW_S3_ENDPOINT_URL, AWS_SECRET_ACCESS_KEY, …)"
            )
        raise ValueError(
            f"{name} takes no {key!r}; its arguments: {', '.join(sorted(known.keys() - {'name'})) or 'none'}"
        )
    return section


Tracker = Annotated[
    CsvTracker | TensorBoardTracker | MlflowTracker, Field(discriminator="name"), BeforeValidator(_expand_tracker)
]
Trackers = Annotated[
    tuple[Tracker, ...], BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value])
]


class HeadConfig(TaskConfig):
    """The task of a model or of one head, and its loss."""

    loss: Losses | None = None
    """A name, or a list of losses with weights; default: the task's usual loss. For rare classes:
    {name: cross_entropy, class_weights: balanced}, or a list in the order of the labels, or {cat: 2.0}."""


class WeightedHead(HeadConfig, AuxiliaryConfig):
    """One of several heads."""

    weight: PositiveFloat = 1.0
    """Factor of this head's loss in the sum."""


class DataConfig(LabelledData):
    """The images. A part that the data set lacks is split off from `train`, using the run's seed."""

    top_classes: PositiveInt | None = None
    """Keep only this number of the most common classes."""
    split_by: Literal["picture", "class"] | None = None
    """class: no class is in two parts, to measure on unseen classes; default: class for embeddings, else picture."""
    per_class: Annotated[int, Field(ge=2)] | None = None
    """Number of images of each class in a batch, for losses that compare images; default: images in random order."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """balanced: each label is drawn equally often in an epoch, so images of rare labels repeat; for multiclass,
    multilabel and heads."""
    val_ratio: float = Field(default=0.15, gt=0, lt=1)
    test_ratio: float = Field(default=0.15, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_split(self) -> DataConfig:
        if self.val_ratio + self.test_ratio >= 1:
            raise ValueError(
                f"val_ratio + test_ratio leave no images for training ({self.val_ratio} + {self.test_ratio})"
            )
        if self.group is not None and self.split_by == "class":
            raise ValueError("group and split_by: class both set what stays together; use only one of them")
        return self


class ModelConfig(Section):
    """The network: a name from timm, for segmentation one from segmentation-models-pytorch, or a plugin's."""

    name: str
    encoder: str = "resnet34"
    """Segmentation: the encoder, a name from segmentation-models-pytorch or timm."""
    pretrained: bool = False
    """Start from the library's pretrained weights, which are downloaded."""
    weights: InputPath | None = None
    """Start from a checkpoint, ours or a third party's, at a path or an address. Tensors that do not fit (another
    number of classes) are initialised anew."""
    arguments: dict[str, JsonValue] = {}
    """More arguments for the network's constructor."""

    @model_validator(mode="after")
    def _check_initial_weights(self) -> ModelConfig:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights both set the initial weights; use only one of them")
        return self


class ImageConfig(Section):
    """The size of the model's input, and how an image is fitted to it."""

    size: PositiveInt | None = None
    """The side of a square input; or set `height` and `width`."""
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    fit: Fit = "crop"
    """crop keeps the centre, pad adds borders, squash changes the shape."""
    crop_ratio: float = 1.0
    interpolation: Interpolation = "bilinear"
    """nearest, bilinear, bicubic or lanczos."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the borders: red, green, blue in 0..255."""

    @model_validator(mode="after")
    def _check_size(self) -> ImageConfig:
        sides = (self.height, self.width)
        if (None in sides) if self.size is None else (sides != (None, None)):
            raise ValueError("expected `size`, or both `height` and `width`")
        _ = self.preprocess
        return self

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that is stored in the model's spec."""
        height, width = self.height or self.size or 0, self.width or self.size or 0
        return Preprocess(height, width, self.fit, self.crop_ratio, self.interpolation, self.fill)


class RandAugmentConfig(Section):
    """RandAugment: random operations of a fixed list, such as shear, posterize or sharpness."""

    magnitude: int = Field(default=9, ge=0, le=30)
    """Strength of the operations, 0..30."""
    num_ops: PositiveInt = 2
    """Number of operations for each image."""


def _expand_bool(value: Any) -> Any:
    return {} if value is True else None if value is False else value


class AugmentConfig(Section):
    """Random changes of training images; 0 turns one off, `enabled: false` turns off all."""

    enabled: bool = True
    flip: Share = 0.5
    """Probability of a mirror image, left to right."""
    flip_vertical: Share = 0.0
    """Probability of a mirror image, upside down."""
    shift: Share = 0.05
    """Largest shift, as a fraction of the side."""
    scale: float = Field(default=0.1, ge=0, lt=1)
    """Zoom in 1 - scale .. 1 + scale."""
    rotate: float = Field(default=10.0, ge=0, le=180)
    """Largest rotation in either direction, in degrees."""
    color: Share = 0.2
    """Largest relative change of brightness, contrast and saturation."""
    gamma: float = Field(default=0.0, ge=0, lt=1)
    """Gamma in 1 - gamma .. 1 + gamma."""
    randaugment: Annotated[RandAugmentConfig | None, BeforeValidator(_expand_bool)] = None
    """true, or {magnitude: 9, num_ops: 2}: RandAugment of torchvision, after the other changes; not for masks."""
    mixup: PositiveFloat | None = None
    """alpha of MixUp, such as 0.2: each image of a batch is blended with another, and so are their labels."""
    cutmix: PositiveFloat | None = None
    """alpha of CutMix, such as 1.0: a box of each image comes from another, and so does that share of its label.
    With mixup too, each batch gets one of the two at random."""


def _check_learning_rate(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        with suppress(ValueError):
            value = float(value)  # YAML reads 1e-3 as text
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "auto":
        return value
    if is_number and 0 < value < math.inf:
        return float(value)
    raise PydanticCustomError("learning_rate", "Input should be a number above 0, or auto")


LearningRate = Annotated[
    float | Literal["auto"], PlainValidator(_check_learning_rate, json_schema_input_type=float | Literal["auto"])
]


class OptimizerConfig(Section):
    """The optimizer. Weight decay is never applied to norms and biases."""

    name: str = "adamw"
    """A name from timm.optim.list_optimizers()."""
    lr: LearningRate = 1e-3
    """auto: the suggestion of `train lr`; the number is printed and stored in the run's config.yaml."""
    weight_decay: float = Field(default=0.05, ge=0)
    arguments: dict[str, JsonValue] = {}
    """More arguments for the optimizer's constructor, such as momentum."""

    @property
    def learning_rate(self) -> float:
        """The learning rate; the default before `auto` is resolved."""
        return 1e-3 if self.lr == "auto" else self.lr


class SchedulerConfig(Section):
    """The learning-rate schedule: a linear warm-up, then the shape that `name` selects."""

    name: str = "cosine"
    """cosine, linear, constant, multistep, exponential, or a class of torch.optim.lr_scheduler."""
    warmup: Share = 0.05
    """Length of the warm-up, as a fraction of a stage's steps."""
    milestones: tuple[Share, ...] = (0.6, 0.9)
    """multistep: the fractions of the steps after which the rate is multiplied by gamma."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """multistep: the factor at each milestone; exponential: the fraction of the rate that is left at the end."""
    arguments: dict[str, JsonValue] = {}
    """Arguments for a class of torch.optim.lr_scheduler, which is stepped after each batch, without our warm-up.
    total_steps, T_max and total_iters default to the length of the training."""


class QuantizationConfig(Section):
    """Fake quantization: the training computes with weights and activations that are rounded to int8."""

    activations: Literal["uint8", "int8"] = "uint8"
    """uint8: from the smallest to the largest value, as for ONNX Runtime and OpenVINO; int8: symmetric, as for
    TensorRT."""
