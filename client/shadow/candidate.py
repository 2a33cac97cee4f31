"""The candidate version, loaded next to the served one under a name of its own.

Triton gives a request without a version to the highest loaded one. A higher version of the same model would therefore
get the live requests. So the candidate is loaded from memory as the model `NAME_shadow_VERSION`; the repository is not
changed, and unloading the model leaves no trace of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonkit.errors import ArtifactError, InputError
from tritonkit.runtimes.formats import backend_format, is_model_file, known_formats
from tritonkit.spec import METADATA_KEY, Frozen, ModelSpec
from tritonkit.system.console import warn
from tritonkit.triton.backends import ModelConfig, backend_of
from tritonkit.triton.client import TritonClient
from tritonkit.triton.model_config import read_config, versions_of

_MAX_BYTES = 2**31 - 1
"""The largest message of protobuf."""


class CandidateVersion(Frozen):
    """A version of a model in the repository."""

    folder: Path
    """Of the model."""
    version: int

    @property
    def shadow_name(self) -> str:
        """The name under which it is loaded for mirroring."""
        return f"{self.folder.name}_shadow_{self.version}"

    def spec(self) -> ModelSpec:
        """Read its spec. Raises InputError if the version does not exist, ArtifactError if it has no spec."""
        versions = versions_of(self.folder)
        if self.version not in versions:
            present = ", ".join(map(str, versions)) or "none"
            raise InputError(
                f"{self.folder}: has no version {self.version}; versions: {present}. Set --candidate to one, or "
                "--repository to the repository that the server serves",
                code="shadow.no_version",
            )
        spec = ModelSpec.read(self.folder / str(self.version))
        if spec is None:
            raise ArtifactError(
                f"{self.folder / str(self.version)}: has no {METADATA_KEY}; publish it with `builder export`",
                code="artifact.no_spec",
            )
        return spec

    @contextmanager
    def load(self, server: TritonClient, spec: ModelSpec) -> Iterator[str]:
        """Load it, yield the name, and unload it. Raises CheckFailedError if Triton refuses it, InferenceError."""
        from google.protobuf import json_format

        folder = self.folder / str(self.version)
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and is_model_file(path))
        size = sum((folder / name).stat().st_size for name in names)
        if size > _MAX_BYTES:
            raise InputError(
                f"{folder}: its files have {size / 1e9:.1f} GB, and Triton takes at most 2 GB with the request that "
                "loads a candidate. Publish it under another --name, load it, and compare both with `client compare`",
                code="shadow.too_large",
            )
        files = {f"file:{self.version}/{name}": (folder / name).read_bytes() for name in names}
        config = json_format.MessageToJson(self._config(spec, names), preserving_proto_field_name=True)
        server.load(self.shadow_name, config, files)
        try:
            yield self.shadow_name
        finally:
            try:
                server.unload(self.shadow_name)
            except Exception as failure:  # noqa: BLE001 - the first error must stay the reported one
                warn(f"{self.shadow_name} was not unloaded: {failure}. `server unload {self.shadow_name}` does it")

    def _config(self, spec: ModelSpec, names: list[str]) -> ModelConfig:
        """Return the configuration of the repository, changed as the candidate's file needs it."""
        config = copy.deepcopy(read_config(self.folder))
        config.name = self.shadow_name
        config.parameters[METADATA_KEY].string_value = spec.to_json()
        for name in ("version_policy", "model_warmup", "response_cache"):
            config.ClearField(name)
        shapes = {output.name: output.shape for output in spec.outputs}
        for output in config.output:
            output.label_filename = ""
            if output.name in shapes:  # another number of labels
                output.dims[:] = shapes[output.name]
        del config.instance_group[1:]
        for group in config.instance_group:  # requests are mirrored one at a time
            group.count = 1
            del group.gpus[1:]
        served = backend_format(backend_of(config))
        if served is not None and served.file not in names and not config.default_model_filename:
            for name in ("backend", "platform", "optimization", "instance_group", "cc_model_filenames"):
                config.ClearField(name)
            config.backend = next(
                (known.backend for known in known_formats() if known.file in names and known.backend), ""
            )
        return config
