"""A store in an OCI registry: `oci://HOST/PATH`; a version is the image `HOST/PATH/NAME:VERSION`.

The image has one layer, which unpacks to `/models/MODEL/…`: a Triton model repository, where image volumes of
Kubernetes and KServe expect it. A pull makes the package from the layer again, byte for byte.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from oras.oci import NewLayer
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from builder.packages.files import scratch_folder
from builder.stores.base import Advance, PackageFile, Sha256, Store, StoredVersion, unconfirmed
from builder.stores.image_layer import restore_package, write_layer
from builder.stores.registry import AbsentError, Registry
from tritonkit.errors import ArtifactError, ExternalError, InputError
from tritonkit.system.files import file_sha256

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SHA256, _SIZE, _CREATED = "tritonkit.package.sha256", "tritonkit.package.size", "org.opencontainers.image.created"
"""Annotations of the manifest."""
_PATH = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
"""A part of a repository's name, as the distribution specification has it."""


class _Notes(BaseModel):
    """The annotations of an image."""

    sha256: Sha256 = Field(alias=_SHA256)
    size: NonNegativeInt | None = Field(None, alias=_SIZE)
    created: datetime | None = Field(None, alias=_CREATED)


class _Layer(BaseModel):
    """The descriptor of a layer."""

    media_type: Literal["application/vnd.oci.image.layer.v1.tar"] = Field(alias="mediaType")
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    size: NonNegativeInt


class _Manifest(BaseModel):
    """The manifest of an image that is a package. Unknown fields are ignored."""

    annotations: _Notes
    layers: tuple[_Layer]


class OciStore(Store):
    """Packages as images in a registry."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        host, _, self._path = self.address.partition("://")[2].partition("/")
        if not host or "@" in host or not all(map(_PATH.fullmatch, self._path.split("/") if self._path else ())):
            raise InputError(
                f"{self.public_name}: expected oci://HOST[:PORT][/PATH], PATH in lower case and without a tag; the "
                "credentials are those of `docker login`",
                code="store.address",
            )
        self._registry = Registry(host)

    def versions(self, name: str) -> list[str]:
        """Return the tags of the repository."""
        try:
            tags = self._registry.repeat(lambda: self._registry.get_tags(self._image(name)))
        except AbsentError:
            return []
        except (AttributeError, TypeError) as error:  # of oras, for JSON of another form
            raise ExternalError(
                f"{self.public_name}: gave an unexpected answer for the tags of {name}; is this the address of a "
                "registry?",
                code="store.answer",
            ) from error
        return [str(tag) for tag in tags]

    def find(self, name: str, version: str) -> StoredVersion | None:
        """Read the annotations of an image."""
        image = self._image(name, version)
        manifest = self._manifest(image)
        if manifest is None:
            return None
        return StoredVersion(name=name, version=version, location=image, **manifest.annotations.model_dump())

    def upload(self, package: PackageFile, advance: Advance) -> StoredVersion:
        """Send the layer and the configuration, then the manifest, which makes the version visible."""
        image, created = self._image(package.name, package.version), datetime.now(UTC).isoformat(timespec="seconds")
        with scratch_folder(package.path) as scratch:
            layer, again, config = scratch / "layer.tar", scratch / "package.zip", scratch / "config.json"
            write_layer(package.path, layer)
            restore_package(layer, again)
            if file_sha256(again) != package.sha256:
                raise ArtifactError(
                    f"{package.path}: was not written by this version of `builder package`, so that a pull could not "
                    "make the same file again; package the model again",
                    code="store.package",
                )
            rootfs = {"type": "layers", "diff_ids": [f"sha256:{file_sha256(layer)}"]}  # the layer is not compressed
            platform = {"architecture": "amd64", "os": "linux"}
            config.write_text(json.dumps({"created": created, **platform, "config": {}, "rootfs": rootfs}))
            blobs = {path: NewLayer(str(path), kind) for path, kind in ((layer, _LAYER), (config, _CONFIG))}
            for path, descriptor in blobs.items():
                self._registry.advance = advance if path == layer else lambda size: None
                self._registry.repeat(partial(self._registry.upload_blob, str(path), image, descriptor))
        notes = {_SHA256: package.sha256, _SIZE: str(package.size), _CREATED: created}
        notes |= {"org.opencontainers.image.title": package.name, "org.opencontainers.image.version": package.version}
        descriptors = {"config": blobs[config], "layers": [blobs[layer]]}
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, **descriptors, "annotations": notes}
        container = self._registry.get_container(image)
        self._registry.repeat(lambda: self._registry.upload_manifest(manifest, container))
        stored = self.find(package.name, package.version)
        if stored is None:
            raise unconfirmed(self.public_name, package, "the image cannot be read back")
        return package.confirm(stored)

    def download(self, stored: StoredVersion, path: Path, advance: Advance) -> None:
        """Read the layer, from where an earlier attempt stopped, and make the package from it."""
        manifest, layer = self._manifest(stored.location), path.with_suffix(".layer")
        if manifest is None:
            raise InputError(
                f"{stored.location}: was deleted from the registry meanwhile; choose another version",
                code="store.no_version",
            )
        digest, size = manifest.layers[0].digest, manifest.layers[0].size
        try:
            self._registry.repeat(lambda: self._registry.read_blob(stored.location, digest, size, layer, advance))
        except AbsentError as error:
            layer.unlink()
            raise ArtifactError(
                f"{stored.location}: its layer is missing in the registry; push this version again", code="store.record"
            ) from error
        if f"sha256:{file_sha256(layer)}" != digest:
            layer.unlink()
            raise ExternalError(f"{stored.location}: came with other content; pull it again", code="store.digest")
        restore_package(layer, path)
        layer.unlink()

    def _manifest(self, image: str) -> _Manifest | None:
        """Read the manifest of a package. Raises ArtifactError for another image."""
        try:
            return _Manifest.model_validate(self._registry.repeat(lambda: self._registry.get_manifest(image)))
        except AbsentError:
            return None
        except ValidationError as error:
            raise ArtifactError(
                f"{image}: is an image that `builder push` did not write, or a damaged one; choose another version",
                code="store.record",
            ) from error

    def _image(self, name: str, version: str = "any") -> str:
        """Return HOST/PATH/NAME:VERSION. Raises InputError if the name cannot be that of a repository."""
        if not _PATH.fullmatch(name):
            raise InputError(
                f"{name}: cannot be the name of an image; expected lower-case letters, digits and . _ - between them",
                code="store.name",
            )
        return "/".join(filter(None, (self._registry.hostname, self._path, f"{name}:{version}")))
