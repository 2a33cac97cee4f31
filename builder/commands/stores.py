"""The commands for stores of packages: `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tritonkit.errors import InputError
from tritonkit.export_options import RepositoryOptions
from tritonkit.options import CommandLine, UserPath, options_of
from tritonkit.system.console import JsonOption, print_json, print_text, progress, reports_errors


class PushOptions(RepositoryOptions):
    """What is pushed, and where to."""

    package: str
    """A package (a zip file), or the name of a published model, which is packaged first."""
    store: str
    """The store: http(s)://HOST, s3://BUCKET/FOLDER, gs://, az://, file://, mlflow://EXPERIMENT or oci://HOST/PATH."""
    version: Annotated[str, CommandLine(flag="--version", metavar="MAJOR.MINOR.PATCH")]
    """The semantic version in the store."""
    name: str | None = None
    """The name in the store; default: that of the model."""
    number: Annotated[int, Field(ge=1)] | None = None
    """Of a published model: its version in the repository; default: the newest that is served."""


@reports_errors
@options_of(PushOptions)
def push(options: PushOptions, as_json: JsonOption = False) -> None:
    """Push a package to a store, by name and semantic version.

    A version never changes: the same content is confirmed again, other content is refused. The version is visible only
    when the whole package has arrived. Tokens and passwords are read from the environment.

    Examples:

    * builder push digits-1.zip https://models.example --version 1.2.0

    * builder push digits s3://models/packages --version 1.2.0

    * builder push digits oci://registry.example/models --version 1.2.0
    """
    from builder.repository.versions import find_model
    from builder.stores.published import push_model, push_package

    path = Path(options.package).expanduser()
    if path.is_file() or path.suffix == ".zip":
        if options.number is not None:
            raise InputError("--number: is for a published model, not for a package", code="option.no_effect")
        pushed = push_package(path, options.store, options.name, options.version)
    else:
        folder = find_model(options.package, options.repository)
        pushed = push_model(folder, options.number, options.store, options.name or folder.name, options.version)
    if as_json:
        print_json(pushed)
        return
    stored = pushed.package
    done = "already there" if pushed.was_there else "pushed"
    print_text(f"{done}: {stored.name} {stored.version} in {pushed.store}, SHA-256 {stored.sha256}")
    print_text(f"Get it with: builder pull {pushed.store} {stored.name}@{stored.version} --install")


class PullOptions(RepositoryOptions):
    """What is pulled, and what is done with it."""

    store: str
    """The address of the store, as for `builder push`."""
    package: Annotated[str, CommandLine(metavar="NAME[@VERSION]")]
    """NAME is the latest release; NAME@1.2.0 this version; NAME@^1.2 the newest from 1.2.0 below 2.0.0."""
    output: UserPath | None = None
    """The file to write; default: NAME-VERSION.zip in the current folder."""
    install: bool = False
    """Install the package into the repository, as `builder install` does, instead of keeping the file."""
    require_signed: Annotated[UserPath | None, CommandLine(metavar="KEY.pub")] = None
    """--install: refuse models that were not signed with the private key of this public key (PEM)."""
    force: bool = False
    """--install: accept a model whose verdict was forced."""


@reports_errors
@options_of(PullOptions)
def pull(options: PullOptions, as_json: JsonOption = False) -> None:
    """Pull a package from a store, by name and semantic version, and check its SHA-256.

    The file gets its name when all of it has arrived. A transfer that stops is continued by the same command.
    With --install, versions.json in the model's folder records which version of Triton has which semantic version.

    Examples:

    * builder pull https://models.example digits --output digits.zip

    * builder pull s3://models/packages digits@^1.2 --install

    * builder pull oci://registry.example/models digits@1.2.0 --install --require-signed keys/model.pub
    """
    _check_pull_options(options)
    if options.install:
        _pull_and_install(options, as_json)
        return
    from builder.stores.transfer import pull as pull_file

    pulled = pull_file(
        options.store, options.package, lambda stored: options.output or Path(f"{stored.name}-{stored.version}.zip")
    )
    if as_json:
        print_json(pulled)
        return
    stored = pulled.package
    print_text(f"pulled: {stored.name} {stored.version} from {pulled.store}, SHA-256 {stored.sha256}: {pulled.path}")


def _pull_and_install(options: PullOptions, as_json: bool) -> None:
    from builder.stores.published import install_pulled, pull_to_cache

    pulled = pull_to_cache(options.store, options.package)
    with progress("checking the package") as report:
        installed = install_pulled(
            pulled, options.repository, report, public_key=options.require_signed, force=options.force
        )
    if as_json:
        print_json({**pulled.model_dump(mode="json", exclude={"path"}), "installed": installed.model_dump(mode="json")})
        return
    for warning in installed.warnings:
        print_text(f"warning: {warning}")
    done = "installed" if installed.new else "already installed"
    print_text(f"{done}: {pulled.package.name} {pulled.package.version} is {installed.folder}")
    if installed.served:
        print_text(f"Load it into a running server with: server reload {' '.join(installed.models)}")


def _check_pull_options(options: PullOptions) -> None:
    if options.install and options.output is not None:
        raise InputError("--output: not with --install, which keeps no file", code="option.conflict")
    if not options.install and (options.force or options.require_signed is not None):
        raise InputError("--force, --require-signed: only with --install", code="option.no_effect")
