"""The training configuration: what a YAML file and `key=value` overrides may say. Loads without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from model.errors import ConfigError
from model.preprocess import Fit, Interpolation, Preprocess
from model.spec import Frozen, Name, TaskName
from train.document import Document

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
"""Lightning's words for what a training step computes in."""
# os.path's version leaves an unknown user's name as it is; Path's raises RuntimeError.
UserPath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]  # noqa: PTH111
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, in 0..1."""


class Section(Frozen):
    """Base of a configuration's parts: besides unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(allow_inf_nan=False)


class DataConfig(Section):
    """The pictures. A part that the data does not bring is split off, stratified by label."""

    path: UserPath
    """A folder of class folders; one with `train/` (and `val/`, `test/`) of class folders; or a CSV."""
    val_ratio: float = Field(default=0.15, gt=0, lt=1)
    test_ratio: float = Field(default=0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> DataConfig:
        if self.val_ratio + self.test_ratio >= 1:
            raise ValueError(f"val_ratio + test_ratio leave nothing to train on ({self.val_ratio} + {self.test_ratio})")
        return self


class ModelConfig(Section):
    """The backbone: a name of timm, and extra arguments of its constructor."""

    name: str
    pretrained: bool = False
    arguments: dict[str, JsonValue] = {}


class ImageConfig(Section):
    """The size of the model's input, and how a picture is fitted to it (see `model.preprocess.Preprocess`)."""

    size: PositiveInt | None = None
    """A square's side; or give `height` and `width`."""
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    fit: Fit = "crop"
    crop_ratio: float = 1.0
    interpolation: Interpolation = "bilinear"
    fill: tuple[int, int, int] = (0, 0, 0)

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
    shift: Share = 0.05
    """Largest shift, as a share of the side."""
    scale: float = Field(default=0.1, ge=0, lt=1)
    """Zoom in 1 - scale .. 1 + scale."""
    rotate: float = Field(default=10.0, ge=0, le=180)
    """Largest turn either way, in degrees."""
    color: Share = 0.2
    """Largest relative change of brightness, contrast and saturation."""


class OptimizerConfig(Section):
    """Norms and biases are never decayed."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)


class SchedulerConfig(Section):
    """The learning rate rises linearly for `warmup` of all steps, then follows the name."""

    name: Literal["cosine", "constant"] = "cosine"
    warmup: Share = 0.05


class Config(Section):
    """One training run."""

    name: Name
    """The model's name; runs are written to `<output>/<name>/<number>`."""
    task: TaskName = "multiclass"
    seed: int = Field(default=0, ge=0, lt=2**32)
    output: UserPath = Path("runs")
    data: DataConfig
    model: ModelConfig
    image: ImageConfig
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    epochs: PositiveInt = 20
    # Batch norm cannot learn from a single picture.
    batch_size: int = Field(default=32, ge=2)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto"
    """`auto`: mixed on a CUDA GPU, else 32-true."""
    workers: NonNegativeInt = 2
    """Processes that decode and augment."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `dotted.key=value` overrides, each value parsed as YAML.

    Relative paths in it are taken from the working directory. Raises ConfigError listing all problems.
    """
    document = Document.read(path)
    problems = document.duplicates + [found for text in overrides if (found := document.override(text))]
    try:
        config = Config.model_validate(document.values)
    except ValidationError as error:
        problems += [document.describe(problem, Config) for problem in error.errors(include_url=False)]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError(f"{path}: {count} in the configuration:\n  " + "\n  ".join(problems))
    return config
