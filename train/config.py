"""The training configuration: what a YAML file and `key=value` overrides may say. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from model.errors import ConfigError
from model.spec import Name
from train.document import Document
from train.sections import (
    AugmentConfig,
    Callback,
    DataConfig,
    ExportConfig,
    HeadConfig,
    ImageConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    UserPath,
    WeightedHead,
)

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
"""Lightning's words for what a training step computes in."""


class Config(HeadConfig):
    """One training run."""

    name: Name
    """The model's name; runs are written to `<output>/<name>/<number>`."""
    heads: dict[Name, WeightedHead] = {}
    """With `task: heads`: what each is asked, by name."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    output: UserPath = Path("runs")
    plugins: tuple[str, ...] = ()
    """Python modules of one's own to import, which register models, losses, readers, callbacks or tasks."""
    data: DataConfig
    model: ModelConfig
    image: ImageConfig
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    epochs: PositiveInt = 20
    frozen_epochs: NonNegativeInt = 0
    """A first stage of so many epochs in which only the heads learn."""
    frozen_lr: PositiveFloat | None = None
    """The learning rate of that stage; default: the optimizer's."""
    # Batch norm cannot learn from a single picture.
    batch_size: int = Field(default=32, ge=2)
    accumulate: PositiveInt = 1
    """Batches whose gradients are added up before a step."""
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto"
    """`auto`: mixed on a CUDA GPU, else 32-true."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is measured and kept."""
    patience: PositiveInt | None = None
    """Stop after so many epochs without a better one."""
    keep_best: PositiveInt = 1
    """So many of the best epochs are kept as checkpoints."""
    workers: NonNegativeInt = 2
    """Processes that decode and augment. The pictures do not depend on how many; on a CPU, the last digits of sums do,
    for each takes a core from torch."""
    callbacks: tuple[Callback, ...] = ()
    """Lightning callbacks of one's own: names that plugins registered, or module:Class."""
    export: ExportConfig | None = None
    """Export the best checkpoint when training ends."""

    @model_validator(mode="after")
    def _heads_are_there_when_asked_for(self) -> Config:
        if (self.task == "heads") != bool(self.heads):
            raise ValueError("`task: heads` and a section `heads` belong together; see train config --task heads")
        usual = HeadConfig()
        unheard = [name for name in ("loss", "column", "thresholds", "embedding_size") if self.heads]
        unheard = [name for name in unheard if getattr(self, name) != getattr(usual, name)]
        if unheard:
            raise ValueError(f"{', '.join(unheard)}: each of `heads` has its own; say it there")
        if self.frozen_lr is not None and not self.frozen_epochs:
            raise ValueError("frozen_lr is for frozen_epochs, which is 0; raise that, or leave frozen_lr out")
        return self

    @property
    def all_epochs(self) -> int:
        """Of both stages."""
        return self.frozen_epochs + self.epochs


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
