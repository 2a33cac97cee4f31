"""Checks before the training that the trackers can work. Loads without mlflow and tensorboard."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from train.config.loading import Config
from tritonkit.errors import ConfigError, InputError, Problem
from tritonkit.remotes.addresses import public_name
from tritonkit.system.env_file import settings_with_prefix
from tritonkit.system.files import check_can_write

URI = "MLFLOW_TRACKING_URI"
_MODULES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
_SCHEMES = ("http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql", "file", "")


def mlflow_environment() -> dict[str, str]:
    """Read MLflow's server and the credentials of its stores, from the environment or from `.env`."""
    return settings_with_prefix("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_")


@contextmanager
def environment_variables(environment: Mapping[str, str]) -> Iterator[None]:
    """Set these variables while the block runs: MLflow reads nothing else."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def check_trackers(config: Config) -> None:
    """Check what can be checked without a network. Raises ConfigError that lists all problems."""
    problems = [
        Problem("install.missing_module", _missing_module(module, f"trackers: {tracker.name}"))
        for tracker in config.trackers
        if (module := _MODULES.get(tracker.name)) is not None and find_spec(module) is None
    ]
    try:
        if config.mlflow is not None:
            check_server_is_set(mlflow_environment())
        if config.tensorboard is not None and config.tensorboard.folder is not None:
            check_can_write(config.tensorboard.folder / config.name / "events")
    except InputError as error:
        problems.append(Problem(error.code, f"trackers: {error}"))
    if problems:
        raise ConfigError("\n".join(map(str, problems)), code="tracking.not_possible", problems=problems)


def check_server_is_set(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if there is no address of MLflow, or if it is not one."""
    uri = environment.get(URI)
    if uri is None:
        raise ConfigError(
            f"mlflow: {URI} is not set; set it in the environment or in {Path.cwd() / '.env'} to the address of your "
            "server, such as http://127.0.0.1:5000",
            code="tracking.no_server",
        )
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in _SCHEMES or (scheme.startswith("http") and not urlsplit(uri).hostname):
        raise ConfigError(
            f"mlflow: {URI}={server_name(uri)} is not the address of an MLflow server; expected one such as "
            "http://127.0.0.1:5000",
            code="tracking.bad_server",
        )


def server_name(uri: str | None = None) -> str:
    """Return the address of the MLflow server, without a password; default: that of the environment."""
    return public_name(os.environ.get(URI, "") if uri is None else uri)


def require_mlflow() -> None:
    """Raise ConfigError if MLflow is not installed."""
    if find_spec("mlflow") is None:
        raise ConfigError(_missing_module("mlflow", "MLflow"), code="install.missing_module")


def _missing_module(module: str, needed_by: str) -> str:
    return f"{needed_by} needs the Python module {module}; install it with: pip install 'tritonkit[tracking]'"
