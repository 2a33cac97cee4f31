"""A store in MLflow's model registry: `mlflow://EXPERIMENT`, on the server that MLFLOW_TRACKING_URI names.

The package is a file of a run in the experiment. MLflow numbers the versions of a registered model itself, so that the
semantic version is a tag of the version. Two uploads of one version get two numbers, and the lower one counts: the
other upload deletes its own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from builder.packages.files import link_or_copy, scratch_folder
from builder.stores.base import Advance, PackageFile, Store, StoredVersion, unconfirmed
from tritonkit.errors import ExternalError, InputError, TokenError, TritonkitError, first_line
from tritonkit.remotes.addresses import public_name, public_text
from tritonkit.remotes.tokens import token_problem

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

URI = "MLFLOW_TRACKING_URI"
_TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - its name
_VERSION, _SHA256, _SIZE = "tritonkit.version", "tritonkit.sha256", "tritonkit.size"
"""Tags of a version."""
_REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED")


class MlflowStore(Store):
    """Packages as versions of registered models; the environment has the server and its credentials."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._experiment = self.address.partition("://")[2]
        if not os.environ.get(URI):
            raise InputError(
                f"{address}: ${URI} is not set; set it to the address of your MLflow server, such as "
                "http://127.0.0.1:5000",
                code="store.address",
            )
        if problem := token_problem(_TOKEN, os.environ.get(_TOKEN)):
            raise TokenError(problem, code="store.token")
        self._server = public_name(os.environ[URI])
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()

    def versions(self, name: str) -> list[str]:
        """Return the tags of the registered model's versions."""
        return [version.tags[_VERSION] for version in self._model_versions(name)]

    def find(self, name: str, version: str) -> StoredVersion | None:
        """Read the tags of the version with the lowest number."""
        number = self._number(name, version)
        return None if number is None else self._stored(number)

    def upload(self, package: PackageFile, advance: Advance) -> StoredVersion:
        """Send the package as a file of a run, then register the version, which makes it visible."""
        with self._translated(), scratch_folder(package.path) as scratch:
            file = scratch / f"{package.name}-{package.version}.zip"
            link_or_copy(package.path, file)
            run = self._client.create_run(self._experiment_id(package.name), run_name=file.stem)
            self._client.log_artifact(run.info.run_id, str(file))
            self._client.set_terminated(run.info.run_id)
            advance(package.size)
            self._register(package.name)
            tags = {_VERSION: package.version, _SHA256: package.sha256, _SIZE: str(package.size)}
            created = self._client.create_model_version(
                package.name, run.info.artifact_uri, run.info.run_id, tags, await_creation_for=0
            )
        first = self._number(package.name, package.version)
        if first is None:
            raise unconfirmed(self.public_name, package, "the version cannot be read back")
        if first.version != created.version:
            with self._translated():
                self._client.delete_model_version(package.name, created.version)
        return package.confirm(self._stored(first))

    def download(self, stored: StoredVersion, path: Path, advance: Advance) -> None:
        """Download the file of the version's run."""
        found = self._number(stored.name, stored.version)
        with self._translated(), scratch_folder(path) as scratch:
            file = f"{stored.name}-{stored.version}.zip"
            copy = self._client.download_artifacts(str(found and found.run_id), file, str(scratch))
            shutil.copyfile(copy, path)  # the file that `pull` has locked stays the same
        advance(path.stat().st_size)

    def _number(self, name: str, version: str) -> ModelVersion | None:
        """Return the version of MLflow that has a semantic version: that with the lowest number."""
        found = [each for each in self._model_versions(name) if each.tags[_VERSION] == version]
        return min(found, key=lambda each: int(each.version), default=None)

    def _model_versions(self, name: str) -> list[ModelVersion]:
        """Return all versions of a registered model that are packages."""
        found: list[ModelVersion] = []
        token: str | None = ""
        with self._translated():
            while token is not None:
                page = self._client.search_model_versions(f"name='{name}'", page_token=token or None)
                found += [version for version in page if _VERSION in version.tags]
                token = page.token or None
        return found

    def _stored(self, version: ModelVersion) -> StoredVersion:
        created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        record = {"sha256": version.tags.get(_SHA256), "size": version.tags.get(_SIZE), "created": created}
        location = f"{self._server}/#/models/{version.name}/versions/{version.version}"
        return StoredVersion.read(version.name, version.tags[_VERSION], record, location)

    def _experiment_id(self, name: str) -> str:
        experiment = self._experiment or name
        found = self._client.get_experiment_by_name(experiment)
        return str(found.experiment_id if found else self._client.create_experiment(experiment))

    def _register(self, name: str) -> None:
        """Create the registered model, if it is missing."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the errors of MLflow and of the libraries of its stores."""
        try:
            yield
        except TritonkitError:
            raise
        except Exception as error:  # each store's library has its own exceptions
            code, reason = getattr(error, "error_code", ""), public_text(first_line(error))[:300]
            if code in _REFUSALS or re.search("error code 40[13]", reason):
                raise TokenError(
                    f"MLflow at {self._server} refuses the credentials ({reason}); set MLFLOW_TRACKING_USERNAME and "
                    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
                    code="store.token",
                ) from error
            if code == "INVALID_PARAMETER_VALUE":
                raise InputError(f"MLflow at {self._server}: {reason}", code="store.refused") from error
            raise ExternalError(
                f"MLflow at {self._server} cannot be reached, or does not work: {reason}", code="store.unreachable"
            ) from error
