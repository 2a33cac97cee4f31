"""The Docker image that serves: NVIDIA's with Pillow on a GPU, else Debian with the pip runtime."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.options import Options
from server.runtimes.base import ProgressCallback
from tritonkit.errors import ServerError, first_line
from tritonkit.system.docker_engine import Docker
from tritonkit.system.env_file import setting
from tritonkit.triton.releases import IMAGE_VARIABLE, image_for

CPU_IMAGE = "tritonkit/triton-cpu"
"""The same name as in docker-compose.yml, so both share one build."""
PILLOW_SUFFIX = "-pillow"
"""Suffix of the image built from TRITON_IMAGE, as in docker-compose.yml; its tag still starts with the release."""
_CPU_IMAGE_VARIABLE = "TRITON_CPU_IMAGE"
_DEBIAN_VARIABLE = "DEBIAN_IMAGE"
BUILD_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Environment variables passed to builds, as Compose does."""
_ROOT = Path(__file__).parents[2]
_DOCKERFILE, _GPU_DOCKERFILE = "deploy/Dockerfile", "deploy/Dockerfile.gpu"
_BUILD_COMMAND = f"docker build --target cpu --tag {CPU_IMAGE} --file {_DOCKERFILE} ."
_MIB = 2**20


@dataclass(frozen=True)
class TritonImages:
    """Provides the image to run: finds, pulls or builds it."""

    docker: Docker
    host_network: bool
    """Whether builds use the network of the host."""
    report: ProgressCallback

    def prepare(self, options: Options, has_gpu: bool) -> str:
        """Return the image to run; pull or build it if it is missing.

        has_gpu: whether the engine gives GPUs to containers. Raises ServerError.
        """
        if options.image is not None:
            return self._pull_if_missing(options.image)
        if has_gpu:
            return self._prepare_pillow_image(image_for(options.repository))
        image = setting(_CPU_IMAGE_VARIABLE, options.repository) or CPU_IMAGE
        if self._exists(image):
            return image
        if image != CPU_IMAGE:
            return self._pull_if_missing(image)
        debian = setting(_DEBIAN_VARIABLE, options.repository)
        if not (_ROOT / _DOCKERFILE).is_file():
            raise ServerError(
                f"this Docker engine has no GPU and no image {CPU_IMAGE}; build it in tritonkit's folder with: "
                f"{_BUILD_COMMAND}, or name another image with --image",
                code="docker.no_image",
            )
        build_args = {_DEBIAN_VARIABLE: debian} if debian else {}
        return self._build(
            CPU_IMAGE, build_args, f"run the build by hand: {_BUILD_COMMAND}", dockerfile=_DOCKERFILE, target="cpu"
        )

    def _prepare_pillow_image(self, base: str) -> str:
        """Return NVIDIA's image with Pillow; without Pillow if that image cannot be built."""
        image = f"{base}{PILLOW_SUFFIX}"
        has_digest = "@" in base  # such a name cannot get a suffix
        if not has_digest and self._exists(image):
            return image
        self._pull_if_missing(base)
        if has_digest or not (_ROOT / _GPU_DOCKERFILE).is_file():
            self.report(f"serving with {base} without Pillow: models that take encoded images will refuse them")
            return base
        advice = f"`--image {base}` serves without Pillow, and refuses encoded images; see docs/docker.md"
        return self._build(image, {IMAGE_VARIABLE: base}, advice, dockerfile=_GPU_DOCKERFILE)

    def _exists(self, image: str) -> bool:
        docker, client = self.docker
        with translate_docker_errors(docker, f"look for the image {image}"):
            try:
                client.images.get(image)
            except docker.errors.ImageNotFound:
                return False
        return True

    def _pull_if_missing(self, image: str) -> str:
        if self._exists(image):
            return image
        docker, client = self.docker
        name, tag = docker.utils.parse_repository_tag(image)
        advice = "check the image name, or build an image as in docs/docker.md and name it with --image"
        with translate_docker_errors(docker, f"pull {image}", advice):
            for step in pull_progress(client.api.pull(name, tag=tag or "latest", stream=True, decode=True)):
                self.report(f"pulling {image}: {step}")
        return image

    def _build(self, image: str, build_args: dict[str, str], advice: str, **recipe: str) -> str:
        """Build an image. recipe: the Dockerfile and the target in it."""
        docker, client = self.docker
        inherited = {name: value for name in BUILD_VARIABLES if (value := os.environ.get(name))}
        with translate_docker_errors(docker, f"build {image}", advice):
            messages = client.api.build(
                path=str(_ROOT),
                **recipe,
                tag=image,
                buildargs={**inherited, **build_args},
                network_mode="host" if self.host_network else None,
                rm=True,
                forcerm=True,
                decode=True,
            )
            try:
                for step in build_progress(messages):
                    self.report(f"building {image}: {step}")
            except ServerError as error:
                raise ServerError(f"{image} was not built: {error}. What to do: {advice}", code=error.code) from error
        return image


@contextmanager
def translate_docker_errors(docker: Any, action: str, advice: str = "") -> Iterator[None]:
    """Turn errors of Docker's SDK into a ServerError.

    docker: the SDK. action: a verb phrase, such as `pull IMAGE`. advice: what to do after a failure.
    """
    hint = f". What to do: {advice}" if advice else ""
    try:
        yield
    except docker.errors.DockerException as error:
        reason = getattr(error, "explanation", None) or error
        raise ServerError(f"Docker cannot {action}: {reason}{hint}", code="docker.refused") from error
    except OSError as error:  # timeouts and lost connections
        raise ServerError(
            f"Docker did not answer when asked to {action}: {first_line(error)}{hint}", code="docker.unreachable"
        ) from error


def pull_progress(messages: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the pulled amount after each 10 MiB. messages: the stream of the engine. Raises ServerError."""
    layers: dict[str, tuple[int, int]] = {}
    reported = -1
    for message in messages:
        _check_message(message)
        detail = message.get("progressDetail") or {}
        if "total" in detail and message.get("status") == "Downloading":
            layers[message["id"]] = (detail["current"], detail["total"])
        done, total = (sum(column) // _MIB for column in zip(*layers.values(), strict=True)) if layers else (0, 0)
        if done // 10 > reported:
            reported = done // 10
            yield f"{done} of {total} MiB"


def build_progress(messages: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the steps of a build. messages: the stream of the engine. Raises ServerError with the last output."""
    last = ""
    for message in messages:
        text = str(message.get("stream", "")).strip()
        last = text or last
        if text.startswith("Step "):
            yield text[:100]
        _check_message(message, last)


def _check_message(message: dict[str, Any], context: str = "") -> None:
    if "error" in message:
        raise ServerError(f"{context} {str(message['error']).strip()}".strip(), code="docker.failed_step")
