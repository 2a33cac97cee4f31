"""The Python environment with NVIDIA's `tritonserver` binary, from the nvidia-pytriton wheel.

The Python backend of this binary runs tritonkit's backends for ONNX, OpenVINO and TorchScript (`server/backends/`), so
it serves the same repository as NVIDIA's image.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import ServerError

ENVIRONMENT_VARIABLE = "TRITONKIT_TRITON_ENV"
LOADED_VARIABLE = "TRITONKIT_LOADED"
"""The folder in which the backends of one Triton tell each other what they have loaded (`backends/loaded.py`)."""
TORCH_VARIABLE = "TRITONKIT_TORCH_SITE"
"""A site-packages folder with torch for the pytorch backend. Default: tritonkit's own, if Python versions match."""
_ROOT = Path(__file__).parents[2]
_BACKENDS = Path(__file__).parents[1] / "backends"
_INTERPRETER_QUERY = """
import json, sys, sysconfig
folders = (sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib")
print(json.dumps({"version": "%d.%d" % sys.version_info[:2], "site": sysconfig.get_path("purelib"),
    "libraries": [folder for folder in folders if folder]}))
"""


@dataclass(frozen=True)
class Interpreter:
    """The Python interpreter of Triton's environment."""

    version: str
    site: str
    libraries: list[str]


@dataclass(frozen=True)
class PipEnvironment:
    """An environment that contains the `tritonserver` binary."""

    folder: Path
    interpreter: Interpreter

    @property
    def binary(self) -> Path:
        """The `tritonserver` program."""
        return self._package / "bin" / "tritonserver"

    @property
    def caches(self) -> Path:
        """The folder with Triton's response cache libraries, such as `local`."""
        return self._package / "caches"

    def environment(self) -> dict[str, str]:
        """Return the environment variables for `tritonserver` and its Python stubs."""
        libraries = [f"{self.interpreter.site}/nvidia_pytriton.libs", *self.interpreter.libraries]
        inherited = {key: os.environ[key] for key in ("HOME", "TMPDIR", "CUDA_VISIBLE_DEVICES") if key in os.environ}
        return {
            **inherited,
            # The stubs embed Python: they find packages through the first `python3` on PATH and ignore PYTHONPATH.
            "PATH": f"{self.folder.resolve() / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LD_LIBRARY_PATH": ":".join(libraries),
            "OMP_WAIT_POLICY": "PASSIVE",
            TORCH_VARIABLE: os.environ.get(TORCH_VARIABLE) or self._torch_site(),
        }

    def copy_backends(self, folder: Path) -> None:
        """Copy the Python backend, the stub for this Python version and tritonkit's backends into `folder`.

        Files are copied because Triton refuses libraries behind a symbolic link that leaves the folder.
        """
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._package / "backends" / "python", folder / "python")
        shutil.copy(self._stub, folder / "python")
        for backend in _BACKENDS.iterdir():
            if (backend / "model.py").is_file():
                (folder / backend.name).mkdir()
                for module in (*backend.glob("*.py"), *_BACKENDS.glob("*.py")):
                    shutil.copy(module, folder / backend.name)

    def _torch_site(self) -> str:
        """Return the site-packages folder of tritonkit's own torch; empty if Triton's Python cannot load it."""
        torch = importlib.util.find_spec("torch")
        own_version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if torch is None or torch.origin is None or self.interpreter.version != own_version:
            return ""
        return str(Path(torch.origin).parents[1])

    @property
    def _package(self) -> Path:
        return Path(self.interpreter.site) / "pytriton" / "tritonserver"

    @property
    def _stub(self) -> Path:
        return self._package / "python_backend_stubs" / self.interpreter.version / "triton_python_backend_stub"

    def problem(self) -> str | None:
        """Return what is missing in the environment, or None."""
        if not self.binary.is_file():
            return f"{self.interpreter.site} has no tritonserver"
        if not self._stub.is_file():
            return f"nvidia-pytriton has no stub for Python {self.interpreter.version}"
        name = f"libpython{self.interpreter.version}.so.1.0"
        if not any((Path(folder) / name).exists() for folder in self.interpreter.libraries):
            return f"its Python has no shared library {name}, which Triton's Python backend loads"
        return None


def find_pip_environment() -> PipEnvironment:
    """Find the environment: `$TRITONKIT_TRITON_ENV`, else `.venv-triton` in this folder or in tritonkit's.

    Raises ServerError.
    """
    configured = os.environ.get(ENVIRONMENT_VARIABLE)
    candidates = [Path(configured)] if configured else [Path.cwd() / ".venv-triton", _ROOT / ".venv-triton"]
    folder = next((path for path in candidates if (path / "bin" / "python").exists()), None)
    if folder is None:
        raise ServerError(
            f"no environment with NVIDIA's tritonserver at {' or '.join(map(str, candidates))}. Create it with "
            f"`make setup` in tritonkit's folder, or set ${ENVIRONMENT_VARIABLE} to an environment that has "
            "nvidia-pytriton and onnxruntime.",
            code="server.no_triton",
        )
    result = subprocess.run(
        [str(folder / "bin" / "python"), "-I", "-c", _INTERPRETER_QUERY], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise ServerError(
            f"{folder}: its Python does not run ({result.stderr.strip()}). Run `make setup` again.",
            code="server.broken_environment",
        )
    environment = PipEnvironment(folder, Interpreter(**json.loads(result.stdout)))
    if (problem := environment.problem()) is not None:
        raise ServerError(
            f"{folder}: {problem}. Remove it and run `make setup` again.", code="server.broken_environment"
        )
    return environment
