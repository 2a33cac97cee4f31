"""ModelSpec: the frozen description of a model that every stage uses.

It is stored as JSON in the checkpoint's header, in an ONNX file's metadata, in `model.json` next to a published model,
and in a parameter of Triton's model configuration.
"""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
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

from tritonkit.errors import SpecError
from tritonkit.images.crops import CropSettings
from tritonkit.images.preprocess import Preprocess

Outputs = dict[str, NDArray[Any]]
"""Output arrays by name, each with the batch axis first."""


SCHEMA_VERSION: Final = 5
DEFAULT_THRESHOLD = 0.5
METADATA_KEY = "model.json"
"""Key of the JSON in checkpoints, ONNX metadata and Triton's config parameters."""

DType = Literal["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES"]
"""Tensor types as Triton and the KServe v2 protocol name them."""

AUXILIARY_TASK = "augmentation"
"""The task of a head that predicts how the training changed an image, as the configuration names it."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=128)]
"""A model or output name that is also a safe folder name."""


VARIABLE_SIZE: Final = -1
"""A size of a tensor that differs from request to request."""


class Frozen(BaseModel):
    """Base of immutable values that refuse unknown fields."""

    # JSON has no NaN; null could not be read back as a metric.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def _check_size(size: int) -> int:
    if size < 1 and size != VARIABLE_SIZE:
        raise ValueError(f"expected a size of 1 or more, or {VARIABLE_SIZE} for a variable one")
    return size


class TensorSpec(Frozen):
    """One input or output tensor. `shape` has no batch axis; -1 is a variable size."""

    name: str
    dtype: DType
    shape: tuple[Annotated[int, AfterValidator(_check_size)], ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [N, {', '.join(map(str, self.shape))}]"


class Architecture(Frozen):
    """The constructor of a network: library, model name and arguments.

    `smp` is segmentation-models-pytorch. `plugin` is a user's constructor (`tritonkit.plugins`). `graph` has no
    constructor: the model came as an ONNX file, and `name` is the name of that file. `pipeline` has no network of its
    own: it calls other models.
    """

    library: Literal["timm", "torchvision", "smp", "plugin", "graph", "pipeline"] = "timm"
    name: str
    arguments: dict[str, JsonValue] = {}
    pruned: bool = False
    """Channels were removed after the construction: the checkpoint's tensors have the shapes of the layers."""

    def __str__(self) -> str:
        return f"{self.library} {self.name}{', channels removed' if self.pruned else ''}"


class Normalize(Frozen):
    """Normalisation of RGB pixels in 0..1, the first layer of the network: `(pixel - mean) / std`."""

    model_config = ConfigDict(allow_inf_nan=False)

    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class Lineage(Frozen):
    """How a model was trained. All fields are optional; none is needed to run the model."""

    data_fingerprint: str | None = None
    group: str | None = None
    """The group of a collection that the model was trained on."""
    config: dict[str, JsonValue] = {}
    git_revision: str | None = None
    seed: int | None = None
    metrics: dict[str, float] = {}
    mlflow_run: str | None = None
    parent: str | None = None
    note: str | None = None
    warnings: tuple[str, ...] = ()
    """Reasons why the training may have learned nothing."""


class GallerySpec(Frozen):
    """The gallery inside a search model, and the distance from which an image counts as unknown."""

    items: PositiveInt
    neighbors: PositiveInt
    """Number of nearest items in an answer."""
    threshold: FiniteFloat
    """An image is known if its nearest item is nearer than this cosine distance, 0..2."""
    false_accept: FiniteFloat
    """The share of images of unknown classes, 0..1, that the threshold was chosen for."""
    false_accept_error: FiniteFloat
    """Standard error of that share over the classes it was chosen on: other classes give another share."""
    false_reject: FiniteFloat | None = None
    """The share of images of known classes, 0..1, that the threshold refuses; None if no class has two items."""
    approximate_recall: FiniteFloat | None = None
    """The share of the nearest items, 0..1, that an approximate search found when it was built; None: it is exact."""
    held_out: str | None = None
    """The images of unknown classes that the threshold was chosen on; None: each class of the gallery in turn."""
    embedder: str
    """SHA-256 of the embedder's weights and preprocessing."""
    fingerprint: str
    """SHA-256 of the vectors, labels and paths."""

    def __str__(self) -> str:
        origin = "its own classes, each left out in turn" if self.held_out is None else self.held_out
        refused = "" if self.false_reject is None else f", refuses {self.false_reject:.1%} of known images"
        found = self.approximate_recall
        search = "" if found is None else f"; an approximate search, which finds {found:.2%} of the nearest items"
        return (
            f"{self.items:,} items, {self.neighbors} neighbours; unknown from distance {self.threshold:.4f}, for "
            f"{self.false_accept:.1%} false accepts (standard error over classes "
            f"{100 * self.false_accept_error:.1f} points) on {origin}{refused}{search}"
        )


class PipelineMember(Frozen):
    """A model that a pipeline calls, as it was when the pipeline was verified."""

    model: Name
    version: PositiveInt
    sha256: str
    """Of the artifact of that version."""
    max_batch: PositiveInt


class PipelineSpec(Frozen):
    """A segmenter whose objects are cut out and classified: two published models that are served as one."""

    segmenter: Name
    label: str
    """The class of the segmenter whose regions are the objects."""
    classifier: Name
    crop: CropSettings
    members: tuple[PipelineMember, ...]
    """Of the verdict: first the segmenter, then the classifier. Triton calls the versions that it serves."""

    def __str__(self) -> str:
        versions = " and ".join(f"{member.model} version {member.version}" for member in self.members)
        return f"{self.label} of {self.segmenter}, cut out for {self.classifier}; verified with {versions}"


class TaskSpec(Frozen):
    """A task with its labels and thresholds; the task `heads` combines several."""

    task: Name
    """A task of `tritonkit.tasks`."""
    labels: tuple[str, ...] = ()
    thresholds: dict[str, FiniteFloat] = {}
    """For each label, the minimum probability at which it is assigned; default 0.5."""
    embedding_size: PositiveInt | None = None
    probability: bool = False
    """Segmentation: output the foreground's probability in addition to the mask."""
    heads: dict[Name, TaskSpec] = {}
    gallery: GallerySpec | None = None
    """Search: the gallery inside the model."""

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        invalid = [label for label in labels if not label or "\n" in label or "\r" in label]
        if invalid:
            raise ValueError(f"a label is one line of text, got {invalid[0]!r}")
        return labels

    @model_validator(mode="after")
    def _check_thresholds(self) -> TaskSpec:
        if unknown := set(self.thresholds) - set(self.labels):
            raise ValueError(f"thresholds for unknown labels: {', '.join(sorted(unknown))}")
        return self

    def threshold(self, label: str) -> float:
        """Return the minimum probability at which a label is assigned."""
        return self.thresholds.get(label, DEFAULT_THRESHOLD)

    def labels_summary(self) -> str:
        """Return the number of labels and the first eight."""
        return f"{len(self.labels)}: {', '.join(self.labels[:8])}{', …' if len(self.labels) > 8 else ''}"


class ModelSpec(TaskSpec):
    """Everything needed to build, verify, serve and query a model."""

    FILE: ClassVar[str] = METADATA_KEY
    """The name of its file in a model or version folder."""
    schema_version: Annotated[
        Literal[5], BeforeValidator(lambda version: 5 if version in (1, 2, 3, 4) else version)
    ] = 5
    """Versions 1 to 4 lack fields that have defaults; they are read, and written again as version 5."""
    name: Name
    architecture: Architecture
    input: TensorSpec
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    preprocess: Preprocess
    normalize: Normalize
    crop: CropSettings | None = None
    """How the objects were cut out that the model was trained on; None for a model of whole images."""
    lineage: Lineage = Lineage()
    pipeline: PipelineSpec | None = None
    """The models that a pipeline calls; None for a model. A pipeline takes encoded images, one a request."""

    @model_validator(mode="after")
    def _check_input(self) -> ModelSpec:
        expected = image_input(self.preprocess) if self.pipeline is None else ENCODED_IMAGE
        if self.input != expected:
            taken = "preprocessing returns" if self.pipeline is None else "a pipeline takes"
            raise ValueError(f"input is {self.input}, but {taken} {expected}")
        return self

    @property
    def auxiliary_heads(self) -> tuple[str, ...]:
        """The heads that predict how the training changed an image, by the lineage."""
        recorded = self.lineage.config.get("heads")
        configs: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
        return tuple(name for name in self.heads if _task_of_head(configs.get(name)) == AUXILIARY_TASK)

    @property
    def members(self) -> tuple[PipelineMember, ...]:
        """The models that a pipeline calls; empty for a model."""
        return () if self.pipeline is None else self.pipeline.members

    def without_heads(self, names: Container[str]) -> ModelSpec:
        """Return the spec without some of its heads; each of them has the output of its name."""
        kept = {name: head for name, head in self.heads.items() if name not in names}
        outputs = tuple(output for output in self.outputs if output.name not in names)
        return self.model_copy(update={"heads": kept, "outputs": outputs})

    def renamed(self, name: str) -> ModelSpec:
        """Return the spec with another name. Raises SpecError if the name is not a safe folder name."""
        try:
            return ModelSpec.model_validate({**self.model_dump(), "name": name})
        except ValidationError as error:
            raise SpecError(
                f"{name!r} cannot name a model: expected up to 128 letters, digits and . _ -, starting with a letter "
                "or a digit",
                code="spec.name",
            ) from error

    def summary_rows(self) -> list[tuple[str, str]]:
        """Return inputs, outputs, preprocessing and labels as rows of a table."""
        preprocess, size = self.preprocess, f"{self.preprocess.height} x {self.preprocess.width}"
        tasks: dict[str, TaskSpec] = dict(self.heads) or {"": self}
        if self.pipeline is not None:
            tensors = [("input", self.input), *(("output", output) for output in self.outputs)]
            return [
                ("task", self.task),
                *((side, str(tensor).replace("[N, ", "[")) for side, tensor in tensors),  # one image a request
                ("labels", self.labels_summary()),
                ("pipeline", str(self.pipeline)),
            ]
        return [
            ("task", self.task),
            ("architecture", str(self.architecture)),
            ("input", str(self.input)),
            *(("output", str(output)) for output in self.outputs),
            (
                "preprocess",
                f"{preprocess.fit} to {size}, {preprocess.interpolation}, keeps {preprocess.crop_ratio:.3g}",
            ),
            ("normalize", f"mean {self.normalize.mean}, std {self.normalize.std}"),
            *((f"labels {name}".strip(), task.labels_summary()) for name, task in tasks.items() if task.labels),
            *([("gallery", str(self.gallery))] if self.gallery is not None else []),
        ]

    def to_json(self) -> str:
        """Return the spec as one line of JSON."""
        return self.model_dump_json()

    @classmethod
    def read(cls, folder: Path) -> ModelSpec | None:
        """Read `model.json` of a folder; None where it is missing. Raises SpecError where it cannot be read."""
        path = folder / cls.FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                f"{path}: the spec cannot be read ({error}); export the model again", code="spec.unreadable"
            ) from error
        return cls.from_json(text, origin=str(path))

    def write(self, folder: Path) -> None:
        """Write `model.json` into a folder."""
        (folder / self.FILE).write_text(self.to_json(), encoding="utf-8")

    def public(self) -> ModelSpec:
        """The spec for clients: without its lineage, which describes the training machine."""
        return self.model_copy(update={"lineage": Lineage()})

    @property
    def label_files(self) -> dict[str, str]:
        """The label files of the model by name, with their content: one label a line, in the order of the classes."""
        tasks: dict[str, TaskSpec] = {f"labels.{name}.txt": head for name, head in self.heads.items()}
        tasks = tasks or {"labels.txt": self}
        return {name: "".join(f"{label}\n" for label in task.labels) for name, task in tasks.items() if task.labels}

    @classmethod
    def from_json(cls, text: str, origin: str) -> ModelSpec:
        """Parse a spec. `origin` names the file or server in errors.

        Raises SpecError if the text is not a spec, or a spec of a newer schema version.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers too long and lists too deep
            raise SpecError(f"{origin}: the model's spec is not JSON ({error})", code="spec.not_json") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise SpecError(
                f"{origin}: written by a newer tritonkit (spec version {version}; this one reads up to "
                f"{SCHEMA_VERSION}). Upgrade tritonkit, or export again with this version.",
                code="spec.newer_version",
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise SpecError(
                f"{origin}: not a valid model spec:\n{validation_problems(error)}", code="spec.fields"
            ) from error


ENCODED_IMAGE: Final = TensorSpec(name="encoded", dtype="BYTES", shape=(1,))
"""The input of a pipeline, and of the models that decode images for another one: a whole image file."""


def _task_of_head(config: Any) -> Any:
    return config.get("task") if isinstance(config, dict) else None


def image_input(preprocess: Preprocess) -> TensorSpec:
    """Return the input of every model: `image` UINT8 [H, W, 3]."""
    return TensorSpec(name="image", dtype="UINT8", shape=(preprocess.height, preprocess.width, 3))


def validation_problems(error: ValidationError) -> str:
    """List all problems of a pydantic validation, one line each: field, problem, value."""
    lines = []
    for problem in error.errors(include_url=False):
        field = ".".join(map(str, problem["loc"])) or "document"
        lines.append(f"  {field}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r:.60})")
    return "\n".join(lines)
