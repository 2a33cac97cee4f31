"""Triton without Docker: NVIDIA's `tritonserver` binary from the nvidia-pytriton wheel, in an environment of its own.

The binary's Python backend runs our backends for ONNX, OpenVINO and TorchScript (`server/backends/`), so the repository
is the same one that NVIDIA's image serves.
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

from model.errors import ServerError

ENVIRONMENT_VARIABLE = "TRITONKIT_TRITON_ENV"
TORCH_VARIABLE = "TRITONKIT_TORCH_SITE"
"""A site-packages folder with torch for the pytorch backend; unset, the kit's own where its Python is Triton's."""
_ROOT = Path(__file__).parents[1]
_BACKENDS = Path(__file__).parent / "backends"
_INTERPRETER_QUERY = """
import json, sys, sysconfig
folders = (sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib")
print(json.dumps({"version": "%d.%d" % sys.version_info[:2], "site": sysconfig.get_path("purelib"),
    "libraries": [folder for folder in folders if folder]}))
"""


@dataclass(frozen=True)
class Interpreter:
    """The Python of Triton's environment."""

    version: str
    site: str
    libraries: list[str]


@dataclass(frozen=True)
class PipEnvironment:
    """A usable environment with the binary in it."""

    folder: Path
    interpreter: Interpreter

    @property
    def binary(self) -> Path:
        """The `tritonserver` program."""
        return self._package / "bin" / "tritonserver"

    @property
    def caches(self) -> Path:
        """The folder of Triton's response caches, `local` among them."""
        return self._package / "caches"

    def environment(self) -> dict[str, str]:
        """The variables `tritonserver` and its Python stubs need: their libraries and packages, none of ours."""
        libraries = [f"{self.interpreter.site}/nvidia_pytriton.libs", *self.interpreter.libraries]
        inherited = {key: os.environ[key] for key in ("HOME", "TMPDIR", "CUDA_VISIBLE_DEVICES") if key in os.environ}
        return {
            **inherited,
            # The stubs embed Python: they find its packages by the `python3` on the path, and ignore PYTHONPATH.
            "PATH": f"{self.folder.resolve() / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LD_LIBRARY_PATH": ":".join(libraries),
            "OMP_WAIT_POLICY": "PASSIVE",
            TORCH_VARIABLE: os.environ.get(TORCH_VARIABLE) or self._torch_site(),
        }

    def lay_out_backends(self, folder: Path) -> None:
        """Fill Triton's backend folder: the Python backend with the stub of this Python, and our backends.

        Triton refuses libraries that a symbolic link leads out of the folder, so files are copied.
        """
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._package / "backends" / "python", folder / "python")
        shutil.copy(self._stub, folder / "python")
        for backend in _BACKENDS.iterdir():
            if (backend / "model.py").is_file():
                (folder / backend.name).mkdir()
                for module in (*backend.glob("*.py"), _BACKENDS / "batching.py"):
                    shutil.copy(module, folder / backend.name)

    def _torch_site(self) -> str:
        """The folder of the kit's own torch, empty without one that Triton's Python can load."""
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
        """What is missing in the environment, if anything."""
        if not self.binary.is_file():
            return f"{self.interpreter.site} has no tritonserver"
        if not self._stub.is_file():
            return f"nvidia-pytriton carries no stub for Python {self.interpreter.version}"
        name = f"libpython{self.interpreter.version}.so.1.0"
        if not any((Path(folder) / name).exists() for folder in self.interpreter.libraries):
            return f"its Python has no shared {name}, which Triton's Python backend loads"
        return None


def find_pip_runtime() -> PipEnvironment:
    """The environment `$TRITONKIT_TRITON_ENV`, or `.venv-triton` here or beside the kit. Raises ServerError."""
    configured = os.environ.get(ENVIRONMENT_VARIABLE)
    candidates = [Path(configured)] if configured else [Path.cwd() / ".venv-triton", _ROOT / ".venv-triton"]
    folder = next((path for path in candidates if (path / "bin" / "python").exists()), None)
    if folder is None:
        raise ServerError(
            f"no environment with NVIDIA's tritonserver at {' or '.join(map(str, candidates))}. Make it with "
            f"`make setup` in the kit's folder, or name one that has nvidia-pytriton and onnxruntime in "
            f"${ENVIRONMENT_VARIABLE}."
        )
    environment = PipEnvironment(folder, _inspect_interpreter(folder))
    if (problem := environment.problem()) is not None:
        raise ServerError(f"{folder}: {problem}. Remove it and run `make setup` again.")
    return environment


def _inspect_interpreter(folder: Path) -> Interpreter:
    asked = subprocess.run(
        [str(folder / "bin" / "python"), "-I", "-c", _INTERPRETER_QUERY], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise ServerError(f"{folder}: its Python does not run ({asked.stderr.strip()}). Run `make setup` again.")
    return Interpreter(**json.loads(asked.stdout))
