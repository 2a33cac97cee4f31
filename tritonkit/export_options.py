"""The options of an export: of `builder export`, of the section `export:` of a training, and of the Python API.

Each is declared here once. The options of a class follow one noun; `ExportOptions` is all of them, with the rules
between them. In Triton's settings None keeps that of the published model; a new model gets dynamic batching and
Triton's defaults: one instance per GPU (two on a CPU for ONNX Runtime), and the newest version. Warm-up is off by
default, as in Triton: it makes each start longer by a run of the largest batch for each instance of each version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from tritonkit.comparison import Limits
from tritonkit.errors import InputError, Problem
from tritonkit.images.preprocess import MAX_SIDE, Fit, Interpolation
from tritonkit.options import CommandLine, InputPath, Options, UserPath, option_error
from tritonkit.repository.build_record import BuildOptions
from tritonkit.repository.config_rules import ACCELERATORS
from tritonkit.repository.verdict import LIMITS
from tritonkit.runtimes.formats import ONNX, OPENVINO, RTX, TORCHSCRIPT, TRT, Precision, Target, format_named

Layout = Literal["NCHW", "NHWC"]
"""The axis order of a graph's image input."""
ForeignTask = Literal["multiclass", "multilabel", "embedding", "segmentation"]
"""The tasks of third-party models. Only our own networks have several heads."""
FORMATS = (*(record.name for record in (ONNX, TRT, RTX, OPENVINO, TORCHSCRIPT)), "format")
"""The options that choose a format, in the order of `--help`."""
INT32, UINT32, INT64, UINT64 = 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1
"""The largest numbers of the field types of `ModelConfig`."""
_SHARES = ("decisions", "quality", "tie")
"""The limits that are at most 1."""


def _numbers(minimum: int, maximum: int, expected: str = "") -> Callable[[Any], Any]:
    """A reader of different whole numbers, given as a sequence or with commas between them."""

    def read(value: Any) -> Any:
        if not isinstance(value, str | list | tuple):
            return value
        words = [str(word).strip() for word in (value.split(",") if isinstance(value, str) else value)]
        if not all(re.fullmatch(r"[0-9]+", word) and int(word) >= minimum for word in words):
            words_expected = expected or f"whole numbers from {minimum}, with commas between them"
            raise option_error(f"expected {words_expected}", code="option.numbers")
        numbers = tuple(map(int, words))
        if len(set(numbers)) < len(numbers):
            raise option_error("contains a number twice", code="option.repeated_number")
        if numbers and max(numbers) > maximum:
            raise option_error(
                f"expected {maximum} or less, the largest number that this field of Triton's configuration can store",
                code="option.too_large",
            )
        return numbers

    return read


def _cuda_graphs(value: Any) -> Any:
    if value in ("on", "off"):
        return value == "on"
    return _numbers(1, INT32, "on, off, or batch sizes such as 1,8,32")(value)


def _versions(value: Any) -> Any:
    """A version policy as text: `all`, `latest:N`, or numbers with commas between them."""
    expected = "all, latest:N, or version numbers such as 3,5"
    if value is None or value == "all":
        return value
    if isinstance(value, str) and value.startswith("latest:"):
        if len(_numbers(1, UINT32, expected)(value.removeprefix("latest:"))) > 1:
            raise option_error(f"expected {expected}", code="option.numbers")
        return value
    return ",".join(map(str, _numbers(1, INT64, expected)([value] if isinstance(value, int) else value)))


def _accelerators(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or "none" not in texts:
        return texts
    if len(texts) > 1:
        raise option_error("none removes all accelerators; set it alone", code="option.unknown_accelerator")
    return ()


def _accelerator(text: str) -> str:
    name, colon, pairs = text.partition(":")
    if name not in ACCELERATORS:
        raise option_error(f"expected {', '.join(ACCELERATORS)}, or only none", code="option.unknown_accelerator")
    if colon and not all(re.fullmatch("[^=]+=[^=]+", pair) for pair in pairs.split(",")):
        raise option_error("expected parameters as NAME:key=value,key=value", code="option.accelerator_parameters")
    return text


def _limit(text: str) -> str:
    """Check NAME=NUMBER, or PRECISION.NAME=NUMBER."""
    name, _, number = (part.strip() for part in text.partition("="))
    precision, dot, field = name.rpartition(".")
    if field not in Limits.model_fields:
        raise option_error(
            f"unknown limit {field!r}; expected NAME=NUMBER with one of {', '.join(Limits.model_fields)}",
            code="option.unknown_limit",
        )
    if dot and precision not in LIMITS:
        raise option_error(
            f"unknown precision {precision!r}; expected one of {', '.join(LIMITS)}, or no precision for all of them",
            code="option.limit_precision",
        )
    maximum = 1 if field in _SHARES else math.inf
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 <= value <= maximum):
        expected = f"from 0 to {maximum:g}" if math.isfinite(maximum) else "of at least 0"
        raise option_error(f"expected a number {expected}", code="option.limit_range")
    return f"{name}={number}"


def _each_limit_once(values: tuple[str, ...]) -> tuple[str, ...]:
    names = [value.partition("=")[0] for value in values]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise option_error(f"{', '.join(repeated)} is set twice", code="option.limit_repeated")
    return values


def _milliseconds(value: float) -> float:
    if value and round(value * 1000) == 0:
        raise option_error(
            "is less than a microsecond, the unit of Triton; use 0 for no timeout", code="option.below_microsecond"
        )
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _channels(value: Any) -> Any:
    """Read three numbers with commas between them."""
    if value is None:
        return None
    try:
        red, green, blue = map(float, value.split(",") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise option_error("expected three numbers, such as 0.485,0.456,0.406", code="option.channels") from None
    if not all(map(math.isfinite, (red, green, blue))) or max(red, green, blue) > 2:
        raise option_error("expected values for pixels in 0..1, divide them by 255", code="option.pixel_scale")
    return red, green, blue


def _positive(channels: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if channels and min(channels) <= 0:
        raise option_error("expected numbers above 0", code="option.std")
    return channels


def _sides(value: Any) -> Any:
    """Read N or HEIGHTxWIDTH."""
    if value is None:
        return None
    sides = str(value).lower().split("x") if isinstance(value, str | int) else list(map(str, value))
    if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side) <= MAX_SIDE for side in sides):
        raise option_error(f"expected N or HEIGHTxWIDTH, each in 1..{MAX_SIDE}", code="option.size")
    return int(sides[0]), int(sides[-1])


def _registered_format(text: str) -> str:
    """Check NAME or NAME:PRECISION; without a precision, add the first one of the format."""
    name, _, precision = text.partition(":")
    try:
        record = format_named(name)
    except ValueError as error:
        raise option_error(str(error), code="option.unknown_format") from None
    if precision and precision not in record.precisions:
        raise option_error(f"{name}: expected {', '.join(record.precisions)}", code="option.precision")
    return f"{name}:{precision or record.precisions[0]}"


def _target_of(values: Mapping[str, Any]) -> Target:
    """The format and precision that the options choose; ONNX in fp32 by default."""
    name = next((name for name in FORMATS if values.get(name)), ONNX.name)
    value = values.get(name) or "fp32"
    if name == "format":
        name, _, value = value.partition(":")
    return Target(format=name, precision="fp32" if value is True else value)


BatchSize = Annotated[int, Field(ge=1, le=4096)]
Channels = Annotated[tuple[float, float, float] | None, BeforeValidator(_channels)]


class FormatOptions(Options):
    """The format of the artifact and its precision; ONNX in fp32 by default."""

    panel: ClassVar[str | None] = "Format"

    onnx: Annotated[Literal["fp32", "fp16", "bf16", "int8"] | None, CommandLine(code="option.precision")] = None
    """ONNX in fp32 (the default), fp16, bf16 or int8."""
    trt: Annotated[Literal["fp32", "fp16", "bf16", "int8"] | None, CommandLine(code="option.precision")] = None
    """A TensorRT plan in fp32, fp16, bf16 or int8; needs a GPU."""
    rtx: Annotated[Literal["fp32", "fp16", "int8"] | None, CommandLine(code="option.precision")] = None
    """ONNX and an engine of TensorRT for RTX, in fp32, fp16 or int8."""
    openvino: Annotated[Literal["fp32", "bf16", "int8"] | None, CommandLine(code="option.precision")] = None
    """OpenVINO in fp32, bf16 or int8."""
    torchscript: bool = False
    """A TorchScript trace."""
    format: Annotated[
        Annotated[str, AfterValidator(_registered_format)] | None, CommandLine(metavar="NAME:PRECISION")
    ] = None
    """A format by its name, such as one of a plug-in; without a precision: the first one that it has."""

    @field_validator(*FORMATS)
    @classmethod
    def _check_one_format(cls, value: Any, info: ValidationInfo) -> Any:
        if value and (other := [name for name in FORMATS if info.data.get(name)]):
            raise option_error(
                f"one format at a time, and `{other[0]}` is set too; export the other one as another version or with "
                "another `name`",
                code="option.two_formats",
            )
        return value

    @property
    def target(self) -> Target:
        """The requested format and precision."""
        return _target_of({name: getattr(self, name) for name in FORMATS})


class RepositoryOptions(Options):
    """The repository that a command works on."""

    repository: UserPath = Path("model_repository")
    """The model repository."""


class RetentionOptions(RepositoryOptions):
    """Which old versions of a model are deleted."""

    keep: Annotated[int, Field(ge=1)] | None = None
    """Number of versions to keep; older ones are deleted, unless they are marked or served."""


class VersionOptions(RetentionOptions):
    """What is published as the next version."""

    name: str | None = None
    """The name of the model in the repository."""
    max_batch: BatchSize | None = None
    """Largest batch to verify and serve; default: as before, or 32."""
    encoded: bool = True
    """Also publish NAME_encoded, which takes JPEG, PNG and WebP files."""
    sketch: InputPath | None = None
    """Take the drift sketch from the images of this folder; default: that of the training."""


class PublicationOptions(VersionOptions):
    """How a version is published."""

    force: bool = False
    """Publish although the verdict failed; the verdict records it."""


class OutputOptions(Options):
    """Changes to the outputs of a checkpoint; the defaults change nothing."""

    threshold: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, CommandLine(code="option.threshold_range")] = None
    """Decision threshold: multilabel, or segmentation of two labels."""
    probability: bool = False
    """Segmentation of two labels: output the foreground probability too."""
    auxiliary: Annotated[Literal["drop", "keep"], BeforeValidator(_lower)] = "drop"
    """Heads that predict the augmentation of the training: leave their outputs out, or keep them."""


class VerdictOptions(Options):
    """What a verdict is measured on, and its limits."""

    panel: ClassVar[str | None] = "Verification"

    images: InputPath | None = None
    """Verify on the images of this folder."""
    data: InputPath | None = None
    """Labelled images: a folder of class folders, a CSV or JSON."""
    masks: InputPath | None = None
    """Segmentation: the folder of masks for a folder of images."""
    limit: Annotated[
        tuple[Annotated[str, AfterValidator(_limit)], ...],
        BeforeValidator(
            lambda value: [f"{name}={number}" for name, number in value.items()] if isinstance(value, dict) else value
        ),
        AfterValidator(_each_limit_once),
        CommandLine(metavar="NAME=NUMBER"),
    ] = ()
    """Replace a limit: decisions=0.98, or fp16.relative=0.1 for one precision."""

    @field_validator("masks")
    @classmethod
    def _check_masks(cls, value: Path | str | None, info: ValidationInfo) -> Path | str | None:
        if value is not None and info.data.get("data") is None:
            raise option_error("are the masks of labelled images; add `data`", code="option.no_effect")
        return value

    @property
    def limits(self) -> Mapping[Precision, Limits]:
        """The limits by precision; one that is set for a precision takes precedence over one for all."""
        values = {name: float(number) for name, _, number in (text.partition("=") for text in self.limit)}
        return {
            precision: limits.model_copy(
                update={
                    field: values[name]
                    for field in Limits.model_fields
                    for name in (field, f"{precision}.{field}")
                    if name in values
                }
            )
            for precision, limits in LIMITS.items()
        }


def _html_page(path: Path) -> Path:
    if path.suffix != ".html" and not path.is_dir():
        raise option_error("expected a name that ends in .html", code="output.not_html")
    return path


HtmlPage = Annotated[UserPath, AfterValidator(_html_page)]
"""The name of a page to write."""


class VerificationOptions(VerdictOptions):
    """What a verdict is measured on, its limits, and its page."""

    report: Annotated[HtmlPage | None, CommandLine(metavar="FILE.html")] = None
    """Write the verdict as a page, also if it fails."""


class ReductionOptions(Options):
    """How the precision of the graph is reduced, and what happens where answers change."""

    panel: ClassVar[str | None] = "Reduced precision"

    keep_fp32: Annotated[tuple[str, ...], CommandLine(metavar="PATTERN")] = ()
    """Nodes, operators or tensors to keep in fp32, such as LayerNormalization or '*.head.*'."""
    calibration: InputPath | None = None
    """Images to calibrate on; default: those of the verdict."""
    repair: bool = True
    """If the precision fails: more fp32 nodes, then a higher precision."""
    strict: bool = False
    """Publish only the requested precision; otherwise exit 1."""


class PlanOptions(BuildOptions):
    """How a TensorRT plan, or an engine of TensorRT for RTX, is built."""

    opt_batch: BatchSize | None = None
    """The batch a plan is tuned for; default: the largest."""
    in_container: bool = False
    """Build and verify by Docker, in the Triton image of .env."""
    image: str | None = None
    """With --in-container: another image than that of .env."""

    @property
    def build(self) -> BuildOptions:
        """The options of the build alone."""
        return BuildOptions(**{name: getattr(self, name) for name in BuildOptions.model_fields})


class ServingOptions(Options):
    """The settings of `config.pbtxt` that do not follow from the artifact. None keeps the current setting."""

    config: InputPath | None = None
    """Your own config.pbtxt, whose serving settings are kept; the options below take precedence."""
    instances: Annotated[int, Field(ge=1, le=INT32)] | None = None
    """Number of model instances; on GPUs, per GPU."""
    kind: Annotated[Literal["auto", "cpu", "gpu"] | None, BeforeValidator(_lower)] = None
    """Where instances run."""
    gpus: Annotated[tuple[int, ...] | None, BeforeValidator(_numbers(0, INT32))] = None
    """GPUs to run on, such as 0,1; default: all."""
    dynamic_batching: bool | None = None
    """Batch requests; default: as before, or on."""
    queue_delay_us: Annotated[int, Field(ge=0, le=UINT64)] | None = None
    """Longest time that a request waits for a batch."""
    preferred_batch: Annotated[tuple[int, ...] | None, BeforeValidator(_numbers(1, INT32))] = None
    """Preferred batch sizes, such as 4,8; Triton advises against it for most models."""
    queue_timeout_ms: Annotated[
        Annotated[float, Field(ge=0, lt=1e12), AfterValidator(_milliseconds)] | None,
        CommandLine(code="option.milliseconds"),
    ] = None
    """Longest time that a request waits in the queue; 0 for no limit."""
    queue_timeout_action: Annotated[Literal["reject", "delay"] | None, BeforeValidator(_lower)] = None
    """What to do with a request after the timeout."""
    queue_timeout_override: bool | None = None
    """A request may set a shorter timeout."""
    queue_size: Annotated[int, Field(ge=0, le=UINT32)] | None = None
    """Largest number of waiting requests; more are refused; 0 for no limit."""
    cuda_graphs: Annotated[bool | tuple[int, ...] | None, BeforeValidator(_cuda_graphs)] = None
    """Plans: capture CUDA graphs: on, off, or batch sizes such as 1,8,32."""
    warmup: bool | None = None
    """Run golden images before the model is ready; default: as before, or off."""
    versions: Annotated[str | None, BeforeValidator(_versions)] = None
    """Versions Triton loads: latest:N, all, or numbers such as 3,5."""
    response_cache: bool | None = None
    """Cache responses, if the server has a cache."""
    accelerator: Annotated[
        tuple[Annotated[str, AfterValidator(_accelerator)], ...] | None, BeforeValidator(_accelerators)
    ] = None
    """ONNX: tensorrt, cuda or openvino, NAME:key=value,…; `none` removes them."""

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("kind") == "cpu":
            raise option_error("instances of kind cpu use no GPU; set `kind` to gpu", code="option.gpus_on_cpu")
        return value

    @field_validator(
        "queue_delay_us",
        "preferred_batch",
        "queue_timeout_ms",
        "queue_timeout_action",
        "queue_timeout_override",
        "queue_size",
    )
    @classmethod
    def _check_batching(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("dynamic_batching") is False:
            raise option_error("needs dynamic batching, which is off", code="option.batching_off")
        return value

    @field_validator("accelerator")
    @classmethod
    def _check_accelerator(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        on_gpu = [text for text in value or () if ACCELERATORS[text.partition(":")[0]] == "gpu"]
        if on_gpu and info.data.get("kind") == "cpu":
            raise option_error(f"{on_gpu[0]} runs on a GPU, but `kind` is cpu", code="option.accelerator_on_cpu")
        return value

    @property
    def uses_tensorrt(self) -> bool:
        """Whether ONNX Runtime runs the graph by TensorRT."""
        return any(text.partition(":")[0] == "tensorrt" for text in self.accelerator or ())

    @property
    def queue_settings(self) -> dict[str, Any]:
        """The settings that need dynamic batching, by name; only those that are set."""
        names = ("queue_delay_us", "preferred_batch", "queue_timeout_ms", "queue_timeout_action")
        values = {name: getattr(self, name) for name in (*names, "queue_timeout_override", "queue_size")}
        return {name: value for name, value in values.items() if value is not None}


ONNX_BF16 = (
    "ONNX Runtime has no bf16 kernels for most operators. Run it by TensorRT on a GPU with --accelerator tensorrt, or "
    "use --trt bf16 or --openvino bf16"
)
UNCHANGED_SERVING = ServingOptions()
"""Keeps all current settings."""


class ExportOptions(
    PlanOptions, ReductionOptions, VerificationOptions, OutputOptions, ServingOptions, PublicationOptions, FormatOptions
):
    """Options for `builder export`; default: ONNX in fp32. The last base comes first in `--help` and in rules."""

    @field_validator("*")
    @classmethod
    def _check_has_effect(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse an option that contradicts the format, or one of the options before it."""
        name = str(info.field_name)
        if value != cls.model_fields[name].default and (problem := _contradiction(name, value, info.data)):
            raise option_error(problem.message, code=problem.code)
        return value

    @model_validator(mode="after")
    def _check_bf16(self) -> Self:
        if self.target == Target(format=ONNX.name, precision="bf16") and not self.uses_tensorrt:
            raise option_error(f"`onnx` bf16: {ONNX_BF16}", code="onnx.bf16_kernels")
        return self


def _contradiction(name: str, value: Any, before: Mapping[str, Any]) -> Problem | None:
    """What speaks against an option that is set. before: the valid options that are declared before it."""
    if not any(before.get(name) for name in FORMATS) and any(name not in before for name in FORMATS):
        return None  # the format itself is refused
    requested = _target_of(before)
    target, precision = requested.record, requested.precision
    is_reduced = precision == "int8" or (precision != "fp32" and target.casts)
    match name:
        case "kind" if value == "cpu" and "cpu" not in target.served.runs_on:
            return Problem("config.instance_kind", "a TensorRT plan runs on GPUs")
        case "accelerator" if value and target.served is not ONNX:
            return Problem("config.accelerator_backend", f"is for ONNX, not for {target.name}")
        case "in_container" if target is not TRT:
            return Problem("option.in_container_unused", "builds TensorRT plans; set `trt` to a precision")
        case "image" if not before.get("in_container"):
            return Problem("option.image_unused", "is the image that `in_container` builds in; add `in_container`")
        case "opt_batch" if target.flavour is None:
            return Problem("option.no_effect", "is for plans; set `trt` or `rtx` to a precision")
        case _ if name in BuildOptions.model_fields and target.flavour is None:
            return Problem("option.plan_unused", "only for plans; set `trt` or `rtx` to a precision")
        case "keep_fp32" | "calibration" if not is_reduced:
            advice = "use `onnx`, `trt` or `rtx` in fp16, bf16 or int8, or `openvino` int8"
            return Problem("option.no_effect", f"is for a reduced graph; {advice}")
        case "strict" if before.get("force"):
            return Problem("option.no_effect", "publishes only what passes; leave out `force`")
    return None


class ForeignModelOptions(Options):
    """The description of a third-party model; None takes the value of the file, or timm's default for the model."""

    panel: ClassVar[str | None] = "Third-party models"

    model: str | None = None
    """A timm name, or torchvision/NAME: the network of a state dict, or the preprocessing of a graph."""
    labels: InputPath | None = None
    """A file with one label a line."""
    mean: Channels = None
    """R,G,B on pixels in 0..1; default: the model's."""
    std: Annotated[Channels, AfterValidator(_positive)] = None
    """R,G,B on pixels in 0..1; default: the model's."""
    size: Annotated[tuple[int, int] | None, BeforeValidator(_sides)] = None
    """N or HEIGHTxWIDTH; default: the model's."""
    fit: Fit | None = None
    """How an image is fitted, as in `image:`; default: the model's."""
    crop_ratio: Annotated[Annotated[float, Field(gt=0, le=1)] | None, CommandLine(code="option.crop_ratio")] = None
    """The part of the image that crop keeps, up to 1."""
    interpolation: Interpolation | None = None
    """How an image is resized."""
    layout: Annotated[
        Layout | None, BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
    ] = None
    """A graph's input axes: NCHW or NHWC, where the shape is ambiguous."""
    graph_output: str | None = None
    """A graph's output to use, where it has several."""
    task: ForeignTask | None = None
    """What the model predicts; default: multiclass."""
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    """The activation to add to the last values."""

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: Path | str | None) -> Path | str | None:
        if isinstance(value, Path) and not value.is_file():
            raise option_error("no such file; expected one label a line", code="option.labels_missing")
        return value

    @field_validator("crop_ratio")
    @classmethod
    def _check_crop_ratio(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("fit") in ("pad", "squash"):
            raise option_error(
                f"`fit` {info.data['fit']} keeps the whole image; leave the option out", code="option.crop_ratio_unused"
            )
        return value

    @field_validator("task")
    @classmethod
    def _check_task(cls, value: ForeignTask | None, info: ValidationInfo) -> ForeignTask | None:
        if value == "embedding" and info.data.get("labels", True) is not None:  # also a file that does not exist
            raise option_error("an embedding has no labels; leave out `labels`", code="option.labels_unused")
        return value

    @property
    def foreign_flags(self) -> list[str]:
        """The options of a third-party model that are set, as written on the command line."""
        names = ForeignModelOptions.model_fields
        return [self.flag_of(name) for name in names if getattr(self, name) is not None]

    def refuse(self, flags: Iterable[str], because: str) -> None:
        """Raise InputError where one of the options is set. because: the reason, which starts the message."""
        if refused := [flag for flag in self.foreign_flags if flag in flags]:
            raise InputError(f"{because}; leave out {' and '.join(refused)}", code="option.foreign_unused")
