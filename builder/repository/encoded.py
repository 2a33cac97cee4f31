"""Publishing `NAME_decode` and `NAME_encoded` beside a model, so that it takes JPEG, PNG and WebP as they are.

Both have one version, which is replaced when its content changes and not touched otherwise: they follow from the
model's configuration and preprocessing, and the ensemble asks the version of the model that is served.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.config.encoded import decoder_config, ensemble_config
from builder.config.triton_config import config_to_text
from builder.repository.manifest import manifest_of
from builder.repository.publish import CompanionModels
from model import preprocess
from model.encoded import belongs_to, decoder_of, ensemble_of
from model.errors import ArtifactError, InputError
from model.manifest import MANIFEST_FILE
from model.preprocess import Preprocess
from model.spec import METADATA_KEY, ModelSpec
from model.triton_backends import ModelConfig
from model.triton_config import CONFIG_FILE, read_config

PREPROCESS_FILE = "preprocess.json"
"""In the decoder's version folder: the model's `Preprocess`."""
_CARRIED = (
    *("preprocess", "picture_decoding", "picture_formats", "picture_file", "jpeg_file", "png_file", "tiff_file"),
    "pixel_budget",
)
CODE = {
    "model.py": Path(__file__).parents[1] / "encoded" / "model.py",
    **{f"{name}.py": Path(preprocess.__file__).with_name(f"{name}.py") for name in _CARRIED},
}
"""What runs in Triton, and where the kit has it."""
_VERSION = "1"


@dataclass(frozen=True)
class Companion:
    """One of both, as it should be."""

    config: ModelConfig
    files: Mapping[str, bytes]
    """Those of its version folder, but its manifest."""

    @property
    def name(self) -> str:
        """Its name in the repository."""
        return str(self.config.name)

    def stands_in(self, repository: Path) -> bool:
        """Whether it is there as it should be."""
        folder = repository / self.name / _VERSION
        return self.fits(repository) and all(_content(folder / name) == data for name, data in self.files.items())

    def fits(self, repository: Path) -> bool:
        """Whether the one that is there takes and gives the same, be it by other code."""
        folder = repository / self.name
        wanted = self.files.get(PREPROCESS_FILE)
        return (
            (folder / CONFIG_FILE).is_file()
            and read_config(folder) == self.config
            and (folder / _VERSION / MANIFEST_FILE).is_file()
            and (wanted is None or _content(folder / _VERSION / PREPROCESS_FILE) == wanted)
        )

    def write(self, folder: Path) -> None:
        """Write it into an empty model folder."""
        version = folder / _VERSION
        version.mkdir()
        for name, data in self.files.items():
            (version / name).write_bytes(data)
        # Triton wants a version folder of an ensemble too, and object stores keep no empty ones.
        manifest = manifest_of(version, CODE["preprocess.py"], f"encoded pictures of {belongs_to(self.config)}")
        (version / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        (folder / CONFIG_FILE).write_text(config_to_text(self.config), encoding="utf-8")


def check_names(repository: Path, model: str, encoded: bool) -> None:
    """Raise InputError where `model` is the name of another's decoder or ensemble, or theirs are somebody else's.

    encoded: whether it is to have them.
    """
    if (owner := _owner(repository / model)) and (repository / owner).is_dir():
        raise InputError(f"{repository / model}: is how {owner} takes encoded pictures; take another --name")
    for name in (decoder_of(model), ensemble_of(model)) if encoded else ():
        if (repository / name).is_dir() and _owner(repository / name) != model:
            raise InputError(
                f"{repository / name}: stands where `builder export` would have {model} take encoded pictures, and is "
                "none of its making; move it, export under another --name, or with --no-encoded"
            )


def has_encoded(repository: Path, model: str) -> bool:
    """Whether the model takes encoded pictures."""
    return _owner(repository / ensemble_of(model)) == model


def follow(neighbours: CompanionModels, repository: Path, config: ModelConfig) -> None:
    """Have both come after a model that is about to change to this configuration, where they are not as they should be.

    They go by the spec in it, as the clients do that send pixels. Where they would no longer fit the model, the
    ensemble goes before it changes: a builder that is killed would leave one that Triton does not load, or that
    answers for other pixels than the model's.
    """
    decoder, ensemble = _companions(repository, config)
    if not (decoder.fits(repository) and ensemble.fits(repository)):
        neighbours.remove(ensemble.name)
    for one in (decoder, ensemble):
        if neighbours.is_removed(one.name) or not one.stands_in(repository):
            one.write(neighbours.add(one.name))


def leave(neighbours: CompanionModels, repository: Path, model: str) -> None:
    """Have both go, where they are there."""
    for name in (ensemble_of(model), decoder_of(model)):
        if _owner(repository / name) == model:
            neighbours.remove(name)


def preprocess_json(how: Preprocess) -> bytes:
    """The content of `preprocess.json`: the fields of `Preprocess`."""
    return json.dumps(dataclasses.asdict(how), indent=2).encode()


def _companions(repository: Path, config: ModelConfig) -> Iterator[Companion]:
    how = ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, origin=config.name).preprocess
    code = {name: path.read_bytes() for name, path in CODE.items()}
    present = [_present(repository / name) for name in (decoder_of(config.name), ensemble_of(config.name))]
    yield Companion(decoder_config(config, present[0]), {**code, PREPROCESS_FILE: preprocess_json(how)})
    yield Companion(ensemble_config(config, present[1]), {})


def _present(folder: Path) -> ModelConfig | None:
    return read_config(folder) if (folder / CONFIG_FILE).is_file() else None


def _owner(folder: Path) -> str:
    try:
        return belongs_to(read_config(folder))
    except ArtifactError:  # none, or none that can be read
        return ""


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
