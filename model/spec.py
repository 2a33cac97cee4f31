"""ModelSpec: what a model is, in one frozen value that crosses every stage.

It travels as JSON in the checkpoint's header, in an ONNX file's metadata, beside a published model as
`model.json`, and to the client in a parameter of Triton's model configuration.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from model.errors import SpecError
from model.preprocess import Preprocess

SCHEMA_VERSION: Final = 2
DEFAULT_THRESHOLD = 0.5
METADATA_KEY = "model.json"
"""Under this key the JSON stands in checkpoints, ONNX metadata and Triton's config parameters."""

DType = Literal["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES"]
"""Tensor types in the words of Triton and the KServe v2 protocol."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=128)]
"""A name that is also a safe folder name."""


class Frozen(BaseModel):
    """Base of values that never change and refuse unknown fields."""

    # JSON has no NaN: as null a metric that diverged could not be read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class TensorSpec(Frozen):
    """One input or output. `shape` is that of one image's tensor: the batch axis comes before it."""

    name: str
    dtype: DType
    shape: tuple[PositiveInt, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [N, {', '.join(map(str, self.shape))}]"


class Architecture(Frozen):
    """The network's constructor: a model name of a library, and its arguments.

    `smp` is segmentation-models-pytorch; `plugin` is a constructor of one's own (`model.plugins`); `graph` has no
    constructor: the model came as an ONNX or TorchScript file, and `name` is that file's.
    """

    library: Literal["timm", "torchvision", "smp", "plugin", "graph"] = "timm"
    name: str
    arguments: dict[str, JsonValue] = {}


class Normalize(Frozen):
    """First layer of the network, per RGB channel on pixels in 0..1: `(pixel - mean) / std`."""

    model_config = ConfigDict(allow_inf_nan=False)

    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class Lineage(Frozen):
    """Where a model comes from; everything optional, nothing of it needed to run the model."""

    data_fingerprint: str | None = None
    config: dict[str, JsonValue] = {}
    git_revision: str | None = None
    seed: int | None = None
    metrics: dict[str, float] = {}
    mlflow_run: str | None = None
    parent: str | None = None
    note: str | None = None
    warnings: tuple[str, ...] = ()
    """Why the training may have learnt nothing."""


class TaskSpec(Frozen):
    """What a model is asked about a picture: a task and its terms, or, with the task `heads`, several at once."""

    task: Name
    """A name in `model.tasks`."""
    labels: tuple[str, ...] = ()
    thresholds: dict[str, FiniteFloat] = {}
    """By label, the probability from which it holds; 0.5 where none is given."""
    embedding_size: PositiveInt | None = None
    probability: bool = False
    """Segmentation: give the foreground's probability beside the mask."""
    heads: dict[Name, TaskSpec] = {}

    @field_validator("labels")
    @classmethod
    def _labels_fit_on_a_line(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        broken = [label for label in labels if not label or "\n" in label or "\r" in label]
        if broken:
            raise ValueError(f"a label is one line of text, got {broken[0]!r}")
        return labels

    @model_validator(mode="after")
    def _thresholds_are_of_labels(self) -> TaskSpec:
        if unknown := set(self.thresholds) - set(self.labels):
            raise ValueError(f"thresholds for labels that there are not: {', '.join(sorted(unknown))}")
        return self

    def threshold(self, label: str) -> float:
        """The probability from which a label holds."""
        return self.thresholds.get(label, DEFAULT_THRESHOLD)

    def described_labels(self) -> str:
        """How many labels, and the first of them."""
        return f"{len(self.labels)}: {', '.join(self.labels[:8])}{', …' if len(self.labels) > 8 else ''}"


class ModelSpec(TaskSpec):
    """Everything needed to build, check, serve and ask a model."""

    schema_version: Annotated[Literal[2], BeforeValidator(lambda version: 2 if version == 1 else version)] = 2
    """Version 1 lacks fields that have defaults; it is written again as what it is then."""
    name: Name
    architecture: Architecture
    input: TensorSpec
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    preprocess: Preprocess
    normalize: Normalize
    lineage: Lineage = Lineage()

    @model_validator(mode="after")
    def _input_is_what_preprocessing_makes(self) -> ModelSpec:
        expected = image_input(self.preprocess)
        if self.input != expected:
            raise ValueError(f"input is {self.input}, but preprocessing makes {expected}")
        return self

    def renamed(self, name: str) -> ModelSpec:
        """The same model under another name. Raises SpecError when it would not be a safe folder name."""
        try:
            return ModelSpec.model_validate({**self.model_dump(), "name": name})
        except ValidationError as error:
            raise SpecError(
                f"{name!r} cannot name a model: expected up to 128 letters, digits and . _ - alone, the first "
                "a letter or a digit"
            ) from error

    def described(self) -> list[tuple[str, str]]:
        """What it takes and gives, as rows of a table."""
        preprocess = self.preprocess
        tasks: dict[str, TaskSpec] = dict(self.heads) or {"": self}
        return [
            ("task", self.task),
            ("architecture", f"{self.architecture.library} {self.architecture.name}"),
            ("input", str(self.input)),
            *(("output", str(output)) for output in self.outputs),
            (
                "preprocess",
                f"{preprocess.fit} to {preprocess.height} x {preprocess.width}, {preprocess.interpolation}, keeps {preprocess.crop_ratio:.3g}",
            ),
            ("normalize", f"mean {self.normalize.mean}, std {self.normalize.std}"),
            *(
                (f"labels {name}".strip(), question.described_labels())
                for name, question in tasks.items()
                if question.labels
            ),
        ]

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str, origin: str) -> ModelSpec:
        """Read a spec; `origin` names the file or server in errors.

        Raises SpecError for anything but a spec of this schema version or an older one.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers too long and lists too deep
            raise SpecError(f"{origin}: the model's spec is not JSON ({error})") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise SpecError(
                f"{origin}: written by a newer tritonkit (spec version {version}; this one reads up to "
                f"{SCHEMA_VERSION}). Upgrade tritonkit, or export again with this version."
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise SpecError(f"{origin}: not a valid model spec:\n{problems_of(error)}") from error


def image_input(preprocess: Preprocess) -> TensorSpec:
    """The one input every model has: `image` UINT8 [H, W, 3]."""
    return TensorSpec(name="image", dtype="UINT8", shape=(preprocess.height, preprocess.width, 3))


def problems_of(error: ValidationError) -> str:
    """All problems pydantic found, a line each: where, what is wrong, what came."""
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, problem["loc"])) or "document"
        lines.append(f"  {where}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r:.60})")
    return "\n".join(lines)
