"""Create the files that all versions of a model share: `config.pbtxt`, `model.json`, the labels, the warm-up.

Triton has one configuration for all versions of a model, so these files follow the newest version that it loads. Each
version folder holds what is needed to create them again: `model.json`, the verdict, the artifact.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.artifacts import ArtifactInfo, inspect_artifact
from builder.config.serving_config import uses_golden_image, write_warmup
from builder.config.triton_config import config_for
from builder.interface import describe_difference, interface_of
from tritonkit.errors import ArtifactError, InputError, TritonkitError
from tritonkit.export_options import UNCHANGED_SERVING, ServingOptions
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import format_of
from tritonkit.spec import ModelSpec
from tritonkit.system.files import atomic_write
from tritonkit.triton.backends import ModelConfig, backend_files
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    config_to_text,
    last_version,
    policy_text,
    read_config,
    versions_loaded,
    versions_of,
)


@dataclass(frozen=True)
class SharedFiles:
    """The files that all versions of a model share: config.pbtxt, model.json, labels and warm-up."""

    spec: ModelSpec
    config: ModelConfig
    images: ImageArray | None
    """Images for the warm-up; None keeps the present file."""

    def write(self, model: Path) -> ModelConfig:
        """Write the files into a model's folder and return the configuration.

        Each file is replaced, never modified: it is a hard link to the file being served.
        """
        if self.images is not None and uses_golden_image(self.config):
            write_warmup(model, self.images)
        texts = {CONFIG_FILE: config_to_text(self.config), ModelSpec.FILE: self.spec.to_json(), **self.spec.label_files}
        with suppress(TritonkitError):  # `builder check` reports a spec that cannot be read
            if (present := ModelSpec.read(model)) is not None:
                for stale in present.label_files:  # other files belong to the user
                    (model / stale).unlink(missing_ok=True)
        for name, text in texts.items():
            with atomic_write(model / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return self.config


def resolve_shared_files(
    model: Path, added: SharedFiles, serving: ServingOptions, overrides: ModelConfig | None
) -> SharedFiles:
    """Choose the shared files after a version was added: those of the newest version that the version policy loads.

    model: the folder with the added version, and with the shared files as they were before.
    Raises what `shared_files_for` raises, and InputError where the version policy loads a version with another
    interface.
    """
    numbers = versions_of(model)
    loaded = sorted(versions_loaded(added.config, numbers))
    if not loaded:
        return added
    shared = added if numbers[-1] in loaded else shared_files_for(model, loaded[-1], serving, overrides)
    expected = interface_of(shared.spec)
    for version in loaded[:-1]:
        try:
            interface = _inspect_version(model / str(version), backend_files(shared.config).file).interface
        except ArtifactError:  # `builder check` reports it
            continue
        if interface is not None and (differs := describe_difference(interface, expected, f"version {loaded[-1]} has")):
            raise InputError(
                f"{model.name}: version {version}, which version policy {policy_text(shared.config)} loads too, "
                f"{differs}. Triton has one config.pbtxt for all versions of a model: export under another --name, or "
                "with --versions latest:1",
                code="repository.versions_differ",
            )
    return shared


def shared_files_for(
    model: Path, version: int, serving: ServingOptions = UNCHANGED_SERVING, overrides: ModelConfig | None = None
) -> SharedFiles:
    """Create the shared files for a version that is the newest loaded one. Tuned settings of the configuration stay.

    Raises ArtifactError where the spec of the version is missing, InputError for a configuration that Triton would
    refuse.
    """
    current, folder = read_config(model), model / str(version)
    loading = backend_files(current)
    info = _inspect_version(folder, loading.file)
    spec = version_spec(model, version, info)
    older = [number for number in versions_of(model) if number != version]
    # The batch size the version was verified at, unless the configuration sets a smaller one on purpose.
    largest, described = current.max_batch_size, shared_version(model)
    max_batch = verified_batch(folder) or largest
    if described and largest < (verified_batch(model / str(described)) or 0):
        max_batch = min(max_batch, largest)
    config = config_for(
        spec,
        info.interface or interface_of(spec),
        max_batch,
        max([last_version(current), version, *older]),
        current,
        loading=loading,
        serving=serving,
        user_config=overrides,
        other_versions=older,
    )
    golden = folder / GOLDEN_FILE
    return SharedFiles(spec, config, Golden.load(golden).images if golden.is_file() else None)


def version_spec(model: Path, version: int, info: ArtifactInfo | None = None) -> ModelSpec:
    """Read the spec of a version: from its folder, its artifact, or the shared files where they belong to it.

    info: the inspected artifact, if known. Raises ArtifactError for a version that has none of these.
    """
    folder, current = model / str(version), read_config(model)
    if (spec := ModelSpec.read(folder)) is not None:
        return spec
    info = info or _inspect_version(folder, backend_files(current).file)
    if info.spec is not None:
        return info.spec
    if version == shared_version(model) and (spec := ModelSpec.read(model)) is not None:
        return spec
    raise ArtifactError(
        f"{folder}: neither the folder nor its artifact holds the model's spec ({ModelSpec.FILE}), so labels and "
        "preprocessing are unknown; export it again",
        code="repository.no_spec",
    )


def can_promote(folder: Path, info: ArtifactInfo) -> bool:
    """Whether a version has a spec of its own that fits its artifact, so that it can be promoted."""
    try:
        spec = ModelSpec.read(folder) or info.spec
    except TritonkitError:
        return False
    return spec is not None and info.interface in (None, interface_of(spec))


def shared_version(model: Path) -> int | None:
    """The version that the shared files belong to; None where no version is loaded."""
    current = read_config(model)
    numbers = versions_of(model)
    if last := last_version(current):  # a version being added is not part of the present configuration
        numbers = [number for number in numbers if number <= last]
    return max(versions_loaded(current, numbers), default=None)


def unverified_batch_warnings(model: Path, config: ModelConfig) -> list[str]:
    """A sentence for each version that is served at larger batches than it was verified at."""
    largest = config.max_batch_size
    loaded = sorted(versions_loaded(config, versions_of(model)))
    verified = {version: verified_batch(model / str(version)) for version in loaded}
    return [
        f"max_batch_size {largest} applies to version {version} too, which is served and was verified up to {batch}"
        for version, batch in verified.items()
        if batch is not None and batch < largest
    ]


def verified_batch(folder: Path) -> int | None:
    """The largest batch a version was verified at; None without a readable verdict."""
    verdict = Verdict.find(folder)
    return None if verdict is None else verdict.max_batch


def _inspect_version(folder: Path, name: str) -> ArtifactInfo:
    if not name:  # the backend has no artifact of a known format, such as the code of a pipeline
        return ArtifactInfo()
    artifact = folder / name
    if not artifact.is_file():
        raise ArtifactError(
            f"{folder}: has no {name}, which its backend loads; export it again", code="repository.no_artifact"
        )
    return inspect_artifact(artifact) if format_of(artifact) is not None else ArtifactInfo()
