"""The artifact formats: one record for each, tritonkit's own and those of plug-ins. No other module knows a suffix.

Importing this module loads no runtime: a record names its runner, inspector and builder, which are imported when used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tritonkit.plugins import registered_plugins
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.tensorrt_plan import Flavour
from tritonkit.spec import Frozen

ReducedType = Literal["fp16", "bf16"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
ProgressCallback = Callable[[str], None]
"""Called with a sentence when a step starts."""
Dialect = Literal["onnxruntime", "tensorrt"]
"""The quantised graphs of a format: U8S8 with an int32 bias, or symmetric S8S8 without a quantised bias."""
ImportPath = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
"""`module:attribute`, imported when it is used."""


class ArtifactFormat(Frozen):
    """A file format of exported models: how it is built, opened, inspected and served."""

    name: str
    """The name in verdicts, and of the option of `builder export`."""
    suffix: str = Field(pattern=r"^\.\w+$")
    backend: str
    """The Triton backend that serves the file; empty where none does."""
    platform: str = ""
    """The backend's name in the older field `platform` of config.pbtxt."""
    served_as: ArtifactFormat | None = None
    """The format of the file that is published with this one for Triton."""
    precisions: tuple[Precision, ...]
    casts: bool = True
    """Whether the types of the ONNX graph set the precision; otherwise it is a setting of the runtime."""
    takes_bf16: bool = False
    """Whether bf16 is a fallback where fp16 fails."""
    dialect: Dialect = "onnxruntime"
    runs_on: tuple[Literal["cpu", "gpu"], ...] = ("cpu", "gpu")
    flavour: Flavour | None = None
    """The TensorRT that builds the file, with a build record next to it; None for a file that it does not build."""
    self_contained: bool = True
    """Whether the file contains the spec, so that it can be opened alone."""
    weights_suffix: str = ""
    """The suffix of a second file with the weights, which may or must exist."""
    parameters: tuple[str, ...] = ()
    """Parameters of config.pbtxt that belong to the file, because they change how it is computed."""
    library: str
    """The Python package that runs the file."""
    extra: str = "builder"
    """The extra of tritonkit that installs the library."""
    runner: ImportPath
    """Called with the path, and `threads=` where the file runs on a CPU; returns a Runner."""
    inspector: ImportPath | None = None
    """Called with the path; returns a `builder.artifacts.ArtifactInfo`. None where the file says nothing of itself."""
    builder: ImportPath
    """A class derived from `builder.formats.base.ArtifactBuilder`."""

    @property
    def file(self) -> str:
        """The name of the file in a version folder."""
        return f"model{self.suffix}"

    @property
    def served(self) -> ArtifactFormat:
        """The format of the file that Triton loads."""
        return self.served_as or self

    def open(self, path: Path, threads: int = 0) -> Runner:
        """Open a file as a runner. threads: number of CPU threads; 0 lets the library choose."""
        options = {"threads": threads} if "cpu" in self.runs_on else {}
        runner: Runner = resolve_name(self.runner)(path, **options)
        return runner


ONNX = ArtifactFormat(
    name="onnx",
    suffix=".onnx",
    backend="onnxruntime",
    platform="onnxruntime_onnx",
    precisions=("fp32", "fp16", "bf16", "int8"),
    weights_suffix=".onnx.data",
    library="onnxruntime",
    runner="tritonkit.runtimes.onnxruntime:OnnxRuntimeRunner",
    inspector="builder.artifacts:inspect_onnx",
    builder="builder.formats.onnx:Onnx",
)
OPENVINO = ArtifactFormat(
    name="openvino",
    suffix=".xml",
    backend="openvino",
    precisions=("fp32", "bf16", "int8"),
    casts=False,
    runs_on=("cpu",),
    weights_suffix=".bin",
    parameters=("ENABLE_BATCH_PADDING", "HINT_BF16"),
    library="openvino",
    extra="openvino",
    runner="tritonkit.runtimes.openvino:OpenVinoRunner",
    inspector="builder.artifacts:inspect_openvino",
    builder="builder.formats.openvino:OpenVino",
)
TORCHSCRIPT = ArtifactFormat(
    name="torchscript",
    suffix=".pt",
    backend="pytorch",
    platform="pytorch_libtorch",
    precisions=("fp32",),
    casts=False,
    library="torch",
    runner="tritonkit.runtimes.torchscript:TorchScriptRunner",
    inspector="builder.artifacts:inspect_torchscript",
    builder="builder.formats.torchscript:TorchScript",
)
TRT = ArtifactFormat(
    name="trt",
    suffix=".plan",
    backend="tensorrt",
    platform="tensorrt_plan",
    precisions=("fp32", "fp16", "bf16", "int8"),
    takes_bf16=True,
    dialect="tensorrt",
    runs_on=("gpu",),
    flavour="tensorrt",
    self_contained=False,
    library="tensorrt",
    runner="tritonkit.runtimes.tensorrt:TensorRtRunner",
    inspector="builder.artifacts:inspect_plan",
    builder="builder.formats.tensorrt:Trt",
)
RTX = ArtifactFormat(
    name="rtx",
    suffix=".rtx",
    backend="",
    served_as=ONNX,
    precisions=("fp32", "fp16", "int8"),
    dialect="tensorrt",
    runs_on=("gpu",),
    flavour="rtx",
    self_contained=False,
    library="tensorrt_rtx",
    extra="rtx",
    runner="tritonkit.runtimes.tensorrt:TensorRtRunner",
    inspector="builder.artifacts:inspect_plan",
    builder="builder.formats.tensorrt:Rtx",
)
FAISS = ArtifactFormat(
    name="faiss",
    suffix=".faiss",
    backend="faiss",
    precisions=("fp32",),
    casts=False,
    runs_on=("cpu",),
    weights_suffix=".items.npz",
    library="faiss",
    extra="faiss",
    runner="tritonkit.runtimes.faiss:FaissRunner",
    inspector="builder.artifacts:inspect_faiss",
    builder="builder.formats.faiss:Faiss",
)
BUILT_IN = (ONNX, OPENVINO, TORCHSCRIPT, TRT, RTX)
"""tritonkit's own formats for models of any task."""


def known_formats() -> tuple[ArtifactFormat, ...]:
    """All formats: tritonkit's own, also that of large search models, then those of plug-ins."""
    return (*BUILT_IN, FAISS, *(record() for record in registered_plugins("format").values()))


def model_formats() -> tuple[ArtifactFormat, ...]:
    """The formats for models of any task."""
    return tuple(record for record in known_formats() if record is not FAISS)


def format_of(path: str | Path) -> ArtifactFormat | None:
    """The format of a file by its suffix; None for any other file."""
    suffix = Path(path).suffix
    return next((record for record in known_formats() if record.suffix == suffix), None)


def format_named(name: str) -> ArtifactFormat:
    """The format of this name. Raises ValueError for an unknown one."""
    known = {record.name: record for record in reversed(known_formats())}  # tritonkit's own names take precedence
    if name not in known:
        raise ValueError(f"expected a format: {', '.join(reversed(known))}; got {name!r}")
    return known[name]


def backend_format(backend: str) -> ArtifactFormat | None:
    """The format that a Triton backend loads by default; None for a backend that serves no known format."""
    return next((record for record in known_formats() if backend and record.backend == backend), None)


def model_files(path: Path) -> list[Path]:
    """The path, and the file with its weights where its format has one and it exists."""
    record = format_of(path)
    weights = path.with_suffix(record.weights_suffix) if record is not None and record.weights_suffix else None
    return [path, *([weights] if weights is not None and weights.is_file() else [])]


def is_model_file(path: str | Path) -> bool:
    """Whether a file is an artifact or the weights of one, by its suffix."""
    name = Path(path).name
    return any(name.endswith((known.suffix, known.weights_suffix or known.suffix)) for known in known_formats())


def is_plan(path: str | Path) -> bool:
    """Whether a file is a TensorRT plan, or an engine of TensorRT for RTX, by its suffix."""
    record = format_of(path)
    return record is not None and record.flavour is not None


class Target(Frozen):
    """A format and a precision."""

    format: Annotated[str, AfterValidator(lambda name: format_named(name).name)] = ONNX.name
    precision: Precision = "fp32"

    def __str__(self) -> str:
        return f"{self.format} {self.precision}"

    @property
    def record(self) -> ArtifactFormat:
        """The format's record."""
        return format_named(self.format)
