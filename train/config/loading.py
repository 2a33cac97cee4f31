"""The training configuration: a YAML file with `key=value` overrides. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PlainValidator, PositiveFloat, PositiveInt, ValidationError, model_validator

from train.config.pruning import Prunings
from train.config.pruning_functions import CHANNELS
from train.config.search import SearchConfig
from train.config.sections import (
    AugmentConfig,
    Callback,
    CsvTracker,
    DataConfig,
    HeadConfig,
    ImageConfig,
    MlflowTracker,
    ModelConfig,
    OptimizerConfig,
    QuantizationConfig,
    SchedulerConfig,
    TensorBoardTracker,
    Trackers,
    WeightedHead,
)
from tritonkit.errors import ConfigError
from tritonkit.export_options import ExportOptions
from tritonkit.options import UserPath, option_error
from tritonkit.remotes.addresses import addresses_with_secrets
from tritonkit.spec import AUXILIARY_TASK, Name
from tritonkit.yaml_document import Document

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
"""Lightning's names for the precision of a training step."""


def _check_batch_size(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 2):
        return value
    raise ValueError("expected a number of at least 2, or auto")


BatchSize = Annotated[
    int | Literal["auto"], PlainValidator(_check_batch_size, json_schema_input_type=int | Literal["auto"])
]
MIXED_LABEL_LOSSES = {"multiclass": ("cross_entropy", "bce"), "multilabel": ("bce",)}
"""By task, the losses that accept labels between 0 and 1, as mixup and cutmix make them."""


_HALF_OF_A_TURN = 45.0
"""Degrees: half of the smallest rotation that an auxiliary head tells apart."""
_RANDAUGMENT_DEGREES = 4.5
"""By how much torchvision's RandAugment rotates at each step of its magnitude: 135 degrees at 30."""


class Config(HeadConfig):
    """One training run."""

    name: Name
    """The model's name; runs are written to `<output>/<name>/<number>`."""
    heads: dict[Name, WeightedHead] = {}
    """With `task: heads`: the task of each head, by the head's name."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    output: UserPath = Path("runs")
    plugins: tuple[str, ...] = ()
    """Python modules to import, which register your own models, losses, readers, callbacks or tasks."""
    data: DataConfig
    model: ModelConfig
    image: ImageConfig
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    epochs: PositiveInt = 20
    frozen_epochs: NonNegativeInt = 0
    """Number of epochs of a first stage in which only the heads learn."""
    frozen_lr: PositiveFloat | None = None
    """The learning rate of the first stage; default: the optimizer's."""
    # Batch norm cannot learn from a single image.
    batch_size: BatchSize = 32
    """Images in a batch. auto: the largest power of two, up to 256, whose training step fits into the memory; the
    number is printed and stored in the run's config.yaml."""
    accumulate: PositiveInt = 1
    """Number of batches whose gradients are added up before a step."""
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto"
    """`auto`: mixed precision on a CUDA GPU, else 32-true."""
    gradient_clip: PositiveFloat | None = None
    """The largest norm of the gradients of a step, such as 1.0; larger gradients are scaled down to it."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights. The averaged weights are measured and saved."""
    patience: PositiveInt | None = None
    """Stop after this number of epochs without improvement."""
    keep_best: PositiveInt = 1
    """Number of best epochs that are kept as checkpoints."""
    workers: NonNegativeInt = 2
    """Processes that decode and augment. The number does not change the images; on a CPU it changes the last digits
    of sums, because each worker takes a core from torch."""
    pruning: Prunings = ()
    """Sets weights to zero while training, or removes channels before it; one section, or a list of them:
    {function: l1_unstructured, amount: 0.5}."""
    devices: Literal["auto"] | PositiveInt = 1
    """Processes on this host that train together, one for each GPU; `auto`: as many as there are GPUs. On a CPU they
    share the cores. `batch_size` and `workers` are those of each process; the learning rate is not scaled. Under
    torchrun its number of processes is used."""
    num_nodes: PositiveInt = 1
    """Hosts that train together. Start the command by torchrun on each host."""
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    """How several processes work together, by Lightning's names; the last is for networks with unused weights."""
    callbacks: tuple[Callback, ...] = ()
    """Your own Lightning callbacks: names that plugins registered, or module:Class."""
    trackers: Trackers = (CsvTracker(),)
    """Where the run is logged: csv (always), tensorboard, mlflow. With arguments: {name: mlflow, experiment: roses}."""
    quantization: QuantizationConfig | None = None
    """Train with fake quantization, so that int8 changes the answers less. Needs trained weights."""
    export: ExportOptions | None = None
    """Export the best checkpoint after the training."""
    # Not stored in a run's config.yaml, and no difference between two runs.
    search: SearchConfig | None = Field(default=None, exclude=True)
    """What `train search` tries; other commands do not use it."""

    @model_validator(mode="after")
    def _check_no_secrets(self) -> Config:
        if keys := sorted(set(addresses_with_secrets(self.model_dump(mode="json")))):
            raise option_error(
                f"{', '.join(keys)}: the address contains a user, a token or a signature, which would be stored in "
                "config.yaml and sent to the trackers; leave it out, and put credentials into ~/.netrc or the "
                "environment, such as AWS_ACCESS_KEY_ID",
                code="config.credentials",
            )
        return self

    @model_validator(mode="after")
    def _check_heads_and_stages(self) -> Config:
        if (self.task == "heads") != bool(self.heads):
            raise ValueError(
                "`task: heads` needs a section `heads`, and the section needs that task; see train config --task heads"
            )
        default = HeadConfig()
        head_keys = ("loss", "column", "thresholds", "embedding_size") if self.heads else ()
        misplaced = [name for name in head_keys if getattr(self, name) != getattr(default, name)]
        if misplaced:
            raise ValueError(f"{', '.join(misplaced)}: each of `heads` has its own; move it to the heads")
        if self.frozen_lr is not None and not self.frozen_epochs:
            raise ValueError("frozen_lr needs frozen_epochs, which is 0; raise frozen_epochs, or leave frozen_lr out")
        names = [tracker.name for tracker in self.trackers]
        if len(set(names)) < len(names):
            raise ValueError(f"trackers: {', '.join(names)}: each tracker can be used once")
        if self.quantization is not None and self.model.weights is None and not self.model.pretrained:
            raise ValueError("quantization adapts a trained network; set model.weights, or model.pretrained: true")
        return self

    @model_validator(mode="after")
    def _check_auxiliary_heads(self) -> Config:
        auxiliary = {name: head for name, head in self.heads.items() if head.task == AUXILIARY_TASK}
        for name, head in self.heads.items():
            if name in auxiliary and head.operation is None:
                raise ValueError(f"heads.{name}: task {AUXILIARY_TASK} needs an operation: rotation or flip")
            if name not in auxiliary and head.operation is not None:
                raise ValueError(f"heads.{name}.operation is for task: {AUXILIARY_TASK}, not for {head.task}")
            if name in auxiliary and (head.column is not None or head.thresholds):
                raise ValueError(
                    f"heads.{name}: the truth comes from the operation, without thresholds; leave out column and "
                    "thresholds"
                )
        if auxiliary and len(auxiliary) == len(self.heads):
            raise ValueError(f"heads: {', '.join(auxiliary)}: an auxiliary head needs another head beside it")
        for name, head in auxiliary.items():
            if head.operation == "rotation" and self.image.preprocess.height != self.image.preprocess.width:
                raise ValueError(f"heads.{name}: rotation needs square images; set image.size, or use operation: flip")
            if conflict := _conflict(self.augment, head.operation or ""):
                raise ValueError(f"heads.{name}: {conflict}, so {head.operation} cannot be recognised; lower it")
        return self

    @model_validator(mode="after")
    def _check_labels_can_be_sampled_and_mixed(self) -> Config:
        if self.data.sampling == "balanced":
            if self.data.per_class is not None or self.task == "embedding":
                raise ValueError("data.sampling: balanced is not for embeddings; data.per_class sets their batches")
            if self.task == "segmentation":
                raise ValueError(
                    "data.sampling: balanced is not for segmentation, because an image holds several classes; use "
                    "class_weights: balanced in the loss"
                )
        augment = self.augment
        if augment.enabled and augment.randaugment is not None and self.task == "segmentation":
            raise ValueError("augment.randaugment does not move masks, so it is not for segmentation; leave it out")
        mixing = " and ".join(name for name in ("mixup", "cutmix") if getattr(augment, name) is not None)
        if augment.enabled and mixing:
            supported = MIXED_LABEL_LOSSES.get(self.task)
            if supported is None:
                raise ValueError(f"augment.{mixing}: is for {' and '.join(MIXED_LABEL_LOSSES)}, not for {self.task}")
            for term in self.loss or ():
                if term.name not in supported:
                    raise ValueError(
                        f"augment.{mixing}: loss {term.name} cannot learn from mixed labels; use "
                        f"{' or '.join(supported)}, or leave {mixing} out"
                    )
        return self

    @model_validator(mode="after")
    def _check_pruning(self) -> Config:
        for section in self.pruning:
            if section.moment == "stage" and not self.frozen_epochs:
                raise ValueError("pruning.when: stage needs frozen_epochs, the epochs of the first stage, which is 0")
            if section.function == CHANNELS and not self.model.pretrained and self.model.weights is None:
                raise ValueError(
                    f"pruning: {CHANNELS} selects channels by trained weights; set model.weights or model.pretrained"
                )
        return self

    @model_validator(mode="after")
    def _check_ignored_value(self) -> Config:
        if self.task == "segmentation" and any("ignore_index" in term.arguments for term in self.loss or ()):
            raise ValueError("ignore_index is a key of `data`, where it counts for losses and metrics; move it there")
        return self

    @property
    def images_per_batch(self) -> int:
        """The batch size; the default before `auto` is resolved."""
        return 32 if self.batch_size == "auto" else self.batch_size

    @property
    def total_epochs(self) -> int:
        """The number of epochs of both stages."""
        return self.frozen_epochs + self.epochs

    @property
    def mlflow(self) -> MlflowTracker | None:
        """The tracker `mlflow`; None if the run does not use it."""
        return next((tracker for tracker in self.trackers if isinstance(tracker, MlflowTracker)), None)

    @property
    def tensorboard(self) -> TensorBoardTracker | None:
        """The tracker `tensorboard`; None if the run does not use it."""
        return next((tracker for tracker in self.trackers if isinstance(tracker, TensorBoardTracker)), None)


NO_FILE = "; start from examples/digits.yaml or from `train config`"
"""What to do without a configuration."""


def _conflict(augment: AugmentConfig, operation: str) -> str:
    """Say which random change of images hides an operation; empty if none does."""
    if not augment.enabled:
        return ""
    if augment.flip_vertical:
        return f"augment.flip_vertical {augment.flip_vertical:g} also turns images upside down"
    if operation == "flip" and augment.flip:
        return f"augment.flip {augment.flip:g} also mirrors images"
    operations = augment.randaugment
    degrees = augment.rotate + (0 if operations is None else _RANDAUGMENT_DEGREES * operations.magnitude)
    if degrees >= _HALF_OF_A_TURN:
        return f"augment.rotate and augment.randaugment turn images by up to {degrees:g} degrees, 45 or more"
    return ""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `dotted.key=value` overrides, each value parsed as YAML.

    Relative paths in the file start from the working directory. Raises ConfigError that lists all problems.
    """
    return resolve_config(Document.read(path, NO_FILE), overrides, str(path))


def resolve_config(document: Document, overrides: Sequence[str], origin: str) -> Config:
    """Apply overrides to a document and validate it. Raises ConfigError that lists all problems; origin names it."""
    problems = document.duplicates + [problem for text in overrides if (problem := document.override(text))]
    try:
        config = Config.model_validate(document.values)
    except ValidationError as error:
        problems += [document.describe(details, Config) for details in error.errors(include_url=False)]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        listing = "\n  ".join(map(str, problems))
        raise ConfigError(
            f"{origin}: {count} in the configuration:\n  {listing}", code="config.invalid", problems=problems
        )
    return config
