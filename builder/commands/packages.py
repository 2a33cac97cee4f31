"""The commands for packages: `package` writes them, `install` publishes their content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field

from tritonkit.errors import InputError
from tritonkit.export_options import RepositoryOptions
from tritonkit.options import CommandLine, InputPath, UserPath, options_of
from tritonkit.system.console import JsonOption, print_json, print_text, progress, reports_errors, table

if TYPE_CHECKING:
    from builder.packages.package import Package
    from builder.packages.signing import SignedVersion

Sources = Annotated[list[str] | None, typer.Argument(help="Published models: names, or folders.", metavar="[MODEL]...")]


class PackageOptions(RepositoryOptions):
    """What is packaged, and where to."""

    version: Annotated[int, Field(ge=1)] | None = None
    """The version to package; default: the newest that is served."""
    output: UserPath | None = None
    """The folder of the packages; with --group a new one. Default: the current one; with --group NAME-RUN."""
    group: str | None = None
    """Export and package the latest finished run of this group, or of this name."""
    runs: UserPath = Path("runs")
    """--group: the output folder of the trainings."""
    onnx: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """--group: ONNX in this precision."""
    trt: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """--group: a TensorRT plan in this precision; needs a GPU."""
    openvino: Literal["fp32", "bf16", "int8"] | None = None
    """--group: OpenVINO in this precision."""
    torchscript: bool = False
    """--group: a TorchScript trace."""

    @property
    def formats(self) -> dict[str, Any]:
        """The formats that are set, as options of `builder export`."""
        values = {name: getattr(self, name) for name in ("onnx", "trt", "openvino", "torchscript")}
        return {name: value for name, value in values.items() if value}


@reports_errors
@options_of(PackageOptions)
def package(options: PackageOptions, models: Sources = None, as_json: JsonOption = False) -> None:
    """Write published models as packages: one zip file each, with verdict and hashes, ready for any Triton.

    With --group, export the latest finished training run of a group and package it: a folder with the artifacts, a
    package of each, and meta.json. Without a format: that of the section `export` of the run, else ONNX in fp32. If one
    format cannot be built or fails its verdict, nothing is written.

    Examples:

    * builder package digits

    * builder package digits --version 3 --output packages/

    * builder package --group people-2026 --onnx fp16 --torchscript --output release/
    """
    _check_package_options(options, models or [])
    if options.group is not None:
        from builder.packages.experiment import package_experiment

        with progress("looking for the run") as report:
            folder, meta = package_experiment(options.group, options.runs, options.output, options.formats, report)
        if as_json:
            print_json({"folder": folder, **meta.model_dump(mode="json")})
            return
        rows = [[name, file.format, file.precision, file.verdict, _mb(file.bytes)] for name, file in meta.files.items()]
        table(["file", "format", "precision", "verdict", "MB"], rows)
        print_text(f"packaged: {folder} from {meta.run}")
        return
    from builder.packages import write_package
    from builder.packages.archive import open_archive
    from builder.repository.shared_files import shared_version
    from builder.repository.versions import find_model

    written: dict[Path, Package] = {}
    folder = options.output or Path()
    sources = [find_model(model, options.repository) for model in models or []]
    folder.mkdir(parents=True, exist_ok=True)
    with progress("packaging") as report:
        for source in sources:
            report(f"packaging {source.name}")
            number = options.version or shared_version(source) or 0
            path = write_package(source, number, folder)
            with open_archive(path) as archive:
                written[path] = archive.package
    if as_json:
        print_json([{"package": path, **content.model_dump(mode="json")} for path, content in written.items()])
        return
    for path, content in written.items():
        signed = ", signed" if content.signed else ""
        verdict = f"verdict {content.verdict.state}, {content.verdict.format} {content.verdict.precision}"
        print_text(f"packaged: {path} ({_mb(path.stat().st_size)} MB, {', '.join(content.models)}; {verdict}{signed})")


def _check_package_options(options: PackageOptions, models: list[str]) -> None:
    if bool(models) == (options.group is not None):
        raise InputError("expected either names of published models, or --group", code="package.source")
    if options.group is not None and options.version is not None:
        raise InputError("--version: is for a published model, not for --group", code="option.no_effect")
    if options.group is None and options.formats:
        flags = ", ".join(f"--{name}" for name in options.formats)
        raise InputError(f"{flags}: only with --group; a published model has its format", code="option.no_effect")


class InstallOptions(RepositoryOptions):
    """What is installed, and which packages are refused."""

    package: InputPath
    """A package: a file, or an address such as https://host/digits-1.zip."""
    name: str | None = None
    """Install the model under another name."""
    require_signed: Annotated[UserPath | None, CommandLine(metavar="KEY.pub")] = None
    """Refuse models that were not signed with the private key of this public key (PEM)."""
    force: bool = False
    """Accept a model whose verdict was forced."""


@reports_errors
@options_of(InstallOptions)
def install(options: InstallOptions, as_json: JsonOption = False) -> None:
    """Install a package into a model repository as the next version of its model.

    Everything is checked first: paths, sizes, hashes, that the verdict passed and is about this artifact, and what the
    configurations name. Content that is already installed is not published again.

    Examples:

    * builder install digits-1.zip

    * builder install https://models.example/digits-3.zip --require-signed keys/model.pub
    """
    from builder.packages import install_package
    from tritonkit.remotes import local_path

    with progress("reading the package") as report:
        installed = install_package(
            local_path(options.package),
            options.repository,
            name=options.name,
            public_key=options.require_signed,
            force=options.force,
            report=report,
        )
    if as_json:
        print_json(installed)
        return
    for warning in installed.warnings:
        print_text(f"warning: {warning}")
    if not installed.new:
        print_text(f"already installed: {installed.folder} has the same content; nothing was published")
        return
    print_text(f"installed: {installed.folder} (verdict {installed.verdict}{', signed' if installed.signed else ''})")
    if installed.served:
        print_text(f"Load it into a running server with: server reload {' '.join(installed.models)}")


@reports_errors
@options_of(RepositoryOptions)
def sign(
    options: RepositoryOptions,
    sources: Annotated[
        list[str], typer.Argument(help="Models, packages (zip files), or repositories.", metavar="SOURCE...")
    ],
    key: Annotated[Path, typer.Option(help="The private key: PEM, of an elliptic curve.", metavar="PRIVATE.pem")],
    as_json: JsonOption = False,
) -> None:
    """Sign models whose verdict passed, so that `--require-signed` accepts them; exit 1 if one is refused.

    A signature covers all files of a version, its verdict too, and the configuration that it is served with. Of a model
    in a repository the versions that Triton loads are signed, with NAME_decode and NAME_encoded. The password of an
    encrypted key is read from TRITONKIT_KEY_PASSWORD.

    Examples:

    * builder sign digits --key private.pem

    * builder sign digits-1.zip --key private.pem
    """
    from builder.packages.signing import sign_models, sign_package
    from builder.repository.versions import find_model
    from tritonkit.triton.model_config import CONFIG_FILE

    signed: list[SignedVersion] = []
    with progress("signing") as report:
        for source in sources:
            path = Path(source)
            report(f"signing {source}")
            if path.is_file():
                signed += sign_package(path, key)
            elif path.is_dir() and not (path / CONFIG_FILE).is_file():
                signed += sign_models(path, (), key)
            else:
                model = find_model(source, options.repository)
                signed += sign_models(model.parent, (model.name,), key)
    if as_json:
        print_json(signed)
        return
    for one in signed:
        print_text(f"signed: {one.model} version {one.version}")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
