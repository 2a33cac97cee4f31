"""The files that all versions of a model share: `config.pbtxt`, `model.json`, the labels, the warm-up.

Triton has one configuration for all versions of a model, so these are those of the newest version that it loads. What
a version itself needs to have them made again lies in its own folder: `model.json`, the verdict, the artifact.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from builder.artifacts import READERS, ArtifactInfo, inspect_artifact
from builder.config.serving import AS_BEFORE, Serving
from builder.config.triton_config import config_for, config_to_text, label_texts
from builder.config.warmup import warms_up, warmup_files, write_warmup
from builder.interface import Interface, difference, interface_of
from builder.proving.verdict import VERDICT_FILE, Verdict
from model.errors import ArtifactError, InputError, TritonkitError
from model.files import atomic_write
from model.golden import GOLDEN_FILE, Golden
from model.preprocess import ImageArray
from model.spec import METADATA_KEY, ModelSpec
from model.triton_backends import ModelConfig, loading_of
from model.triton_config import (
    CONFIG_FILE,
    described_policy,
    last_version,
    read_config,
    versions_loaded,
    versions_of,
)


@dataclass(frozen=True)
class SharedFiles:
    """What the shared files say."""

    spec: ModelSpec
    config: ModelConfig
    images: ImageArray | None
    """For warm-up; None leaves its file as it is."""

    def write(self, model: Path) -> ModelConfig:
        """Put them into a model's folder, each replaced, never written into: they are links to those being served.

        Returns the configuration.
        """
        if self.images is not None and warms_up(self.config):
            write_warmup(model, warmup_files(self.images))
        texts = {CONFIG_FILE: config_to_text(self.config), METADATA_KEY: self.spec.to_json(), **label_texts(self.spec)}
        for stale in _label_files(model):
            (model / stale).unlink(missing_ok=True)
        for name, text in texts.items():
            with atomic_write(model / name) as beside:
                beside.write_text(text, encoding="utf-8")
        return self.config


def _label_files(model: Path) -> Collection[str]:
    """The files of labels that the builder wrote for a model as it is; others are somebody's own."""
    try:
        return label_texts(_spec_in(model / METADATA_KEY))
    except ArtifactError:  # a first version, or `builder check` tells of it
        return ()


def resolve_shared_files(model: Path, added: SharedFiles, serving: Serving, given: ModelConfig | None) -> SharedFiles:
    """What is shared once a version was added: its own, or where the version policy does not load it, that of the
    newest version it does load, with what is asked of serving.

    model: the folder, with the folder of the added version, and the shared files as they were before.
    Raises what `shared_for` does, and InputError where the version policy loads another version that they do not fit.
    """
    numbers = versions_of(model)
    loaded = sorted(versions_loaded(added.config, numbers))
    if not loaded:
        return added
    shared = added if numbers[-1] in loaded else shared_for(model, loaded[-1], serving, given)
    _check_fit(model, loaded[:-1], loaded[-1], shared)
    return shared


def _check_fit(model: Path, others: Sequence[int], newest: int, shared: SharedFiles) -> None:
    """One configuration holds for all versions, and with it the tensors of the newest that is loaded."""
    said = interface_of(shared.spec)
    for version in others:
        interface = _interface(model / str(version), loading_of(shared.config).file)
        if interface is not None and (other := difference(interface, said, f"version {newest} has")):
            raise InputError(
                f"{model.name}: version {version}, which version policy {described_policy(shared.config)} has "
                f"Triton load too, {other}. Triton has one config.pbtxt for all versions of a model: export under "
                "another --name, or with --versions latest:1"
            )


def _interface(folder: Path, name: str) -> Interface | None:
    """What the artifact of a version takes and gives; None where it does not tell, or cannot be read."""
    try:
        return _told(folder, name).interface
    except ArtifactError:  # which `builder check` tells of
        return None


def shared_for(
    model: Path, version: int, serving: Serving = AS_BEFORE, given: ModelConfig | None = None
) -> SharedFiles:
    """What is shared when a version is the newest that is loaded. What was tuned in the configuration is kept.

    Raises ArtifactError where the version does not say what it needs, InputError for a configuration that Triton
    would refuse.
    """
    present, folder = read_config(model), model / str(version)
    loading = loading_of(present)
    told = _told(folder, loading.file)
    spec = spec_of(model, version, told)
    older = [number for number in versions_of(model) if number != version]
    config = config_for(
        spec,
        told.interface or interface_of(spec),
        _max_batch(model, version, present),
        max([last_version(present), version, *older]),
        present,
        loading=loading,
        serving=serving,
        given=given,
        older=older,
    )
    golden = folder / GOLDEN_FILE
    return SharedFiles(spec, config, Golden.load(golden).images if golden.is_file() else None)


def spec_of(model: Path, version: int, told: ArtifactInfo | None = None) -> ModelSpec:
    """The spec of a version: the one in its folder, the one in its artifact, or the shared one where that is its own.

    told: what its artifact says, where that was read. Raises ArtifactError for a version that has none of these.
    """
    folder, present = model / str(version), read_config(model)
    if (folder / METADATA_KEY).is_file():
        return _spec_in(folder / METADATA_KEY)
    told = told or _told(folder, loading_of(present).file)
    if told.spec is not None:
        return told.spec
    if version == described_version(model) and (model / METADATA_KEY).is_file():
        return _spec_in(model / METADATA_KEY)
    raise ArtifactError(
        f"{folder}: neither it nor its artifact holds the model's spec ({METADATA_KEY}), so its labels and "
        "preprocessing are not known; export it again"
    )


def promotable(folder: Path, told: ArtifactInfo) -> bool:
    """Whether a version, whose artifact tells so much, can be served in its own terms."""
    try:
        spec = _spec_in(folder / METADATA_KEY) if (folder / METADATA_KEY).is_file() else told.spec
    except ArtifactError:
        return False
    return spec is not None and told.interface in (None, interface_of(spec))


def described_version(model: Path) -> int | None:
    """The version whose terms the shared files hold; None where no version is loaded."""
    present = read_config(model)
    numbers = versions_of(model)
    if last := last_version(present):  # a version being added is not in the present configuration
        numbers = [number for number in numbers if number <= last]
    return max(versions_loaded(present, numbers), default=None)


def unverified_batch_warnings(model: Path, config: ModelConfig) -> list[str]:
    """A sentence for each version that the configuration serves at larger batches than it was judged at."""
    largest = config.max_batch_size
    loaded = sorted(versions_loaded(config, versions_of(model)))
    proven = {version: proven_batch(model / str(version)) for version in loaded}
    return [
        f"max_batch_size {largest} holds for version {version} too, which is served and was judged up to {judged}"
        for version, judged in proven.items()
        if judged is not None and judged < largest
    ]


def proven_batch(folder: Path) -> int | None:
    """The largest batch a version was judged at; None for one without a verdict that can be read."""
    try:
        return Verdict.model_validate_json((folder / VERDICT_FILE).read_bytes()).max_batch
    except (OSError, ValidationError):
        return None


def _max_batch(model: Path, version: int, present: ModelConfig) -> int:
    """What the version was judged at, unless the configuration had been given a smaller one than was proven."""
    largest: int = present.max_batch_size
    own = proven_batch(model / str(version)) or largest
    described = described_version(model)
    before = described and proven_batch(model / str(described))
    return min(own, largest) if before and largest < before else own


def _told(folder: Path, name: str) -> ArtifactInfo:
    artifact = folder / name
    if not artifact.is_file():
        raise ArtifactError(f"{folder}: has no {name}, which its backend loads; export it again")
    return inspect_artifact(artifact) if artifact.suffix in READERS else ArtifactInfo()


def _spec_in(path: Path) -> ModelSpec:
    try:
        return ModelSpec.from_json(path.read_text(encoding="utf-8"), origin=str(path))
    except (OSError, UnicodeDecodeError, TritonkitError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); export the model again") from error
