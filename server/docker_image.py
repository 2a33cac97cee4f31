"""The image that serves: NVIDIA's and Pillow where the engine has GPUs, else one of Debian and the pip runtime."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.docker_engine import Docker
from model.env_file import setting
from model.errors import ServerError, first_line
from model.releases import IMAGE_VARIABLE, image_for
from server.options import Options
from server.runtime import ProgressCallback

CPU_IMAGE = "tritonkit/triton-cpu"
"""The same as in docker-compose.yml, so that either builds it for both."""
PILLOW_SUFFIX = "-pillow"
"""What docker-compose.yml appends to TRITON_IMAGE too, for the image that is built of it; the release still begins the
tag."""
_CPU_IMAGE_VARIABLE = "TRITON_CPU_IMAGE"
_DEBIAN_VARIABLE = "DEBIAN_IMAGE"
BUILD_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Passed on from the environment to builds, by Compose too."""
_ROOT = Path(__file__).parents[1]
_DOCKERFILE, _GPU_DOCKERFILE = "deploy/Dockerfile", "deploy/Dockerfile.gpu"
_BUILD_COMMAND = f"docker build --target cpu --tag {CPU_IMAGE} --file {_DOCKERFILE} ."
_MIB = 2**20


@dataclass(frozen=True)
class TritonImages:
    """The images of an engine."""

    docker: Docker
    host_network: bool
    """Whether builds use the machine's own network, as containers do."""
    report: ProgressCallback

    def prepare(self, options: Options, has_gpu: bool) -> str:
        """The image to run, there when this returns: pulled, or built.

        gpu: whether the engine gives containers a GPU. Raises ServerError.
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
                f"this engine has no GPU and no image {CPU_IMAGE}; build that in the project's own folder with: "
                f"{_BUILD_COMMAND}, or name another by --image"
            )
        build_args = {_DEBIAN_VARIABLE: debian} if debian else {}
        return self._build(
            CPU_IMAGE, build_args, f"try it by hand: {_BUILD_COMMAND}", dockerfile=_DOCKERFILE, target="cpu"
        )

    def _prepare_pillow_image(self, base: str) -> str:
        """NVIDIA's image with what decodes pictures; itself where that cannot be built of it."""
        image = f"{base}{PILLOW_SUFFIX}"
        if "@" not in base and self._exists(image):
            return image
        self._pull_if_missing(base)
        if "@" in base or not (_ROOT / _GPU_DOCKERFILE).is_file():  # a digest names no other image
            self.report(f"serving with {base} itself: without Pillow in it, encoded pictures are refused")
            return base
        advice = f"`--image {base}` serves without it, and refuses encoded pictures; docs/docker.md has more"
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
        advice = "see whether its name is right, or build one as docs/docker.md says and give it by --image"
        with translate_docker_errors(docker, f"pull {image}", advice):
            for step in pull_progress(client.api.pull(name, tag=tag or "latest", stream=True, decode=True)):
                self.report(f"pulling {image}: {step}")
        return image

    def _build(self, image: str, build_args: dict[str, str], advice: str, **recipe: str) -> str:
        """given: build arguments. recipe: which Dockerfile, and which target in it."""
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
                raise ServerError(f"{image} was not built: {error}. What to do: {advice}") from error
        return image


@contextmanager
def translate_docker_errors(docker: Any, action: str, advice: str = "") -> Iterator[None]:
    """Translate what Docker says when it cannot.

    docker: the SDK. doing: what it was asked for. advice: what to do then. Raises ServerError.
    """
    hint = f". What to do: {advice}" if advice else ""
    try:
        yield
    except docker.errors.DockerException as error:
        reason = getattr(error, "explanation", None) or error
        raise ServerError(f"Docker cannot {action}: {reason}{hint}") from error
    except OSError as error:  # requests' time limits and lost connections are such
        raise ServerError(f"Docker does not answer, asked to {action}: {first_line(error)}{hint}") from error


def pull_progress(messages: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What has arrived, each time it is ten MiB more. answers: as the engine streams them. Raises ServerError."""
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
            yield f"{done} of {total} MiB so far known of"


def build_progress(messages: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The steps of a build. answers: as the engine streams them. Raises ServerError with the last words of one."""
    last = ""
    for message in messages:
        text = str(message.get("stream", "")).strip()
        last = text or last
        if text.startswith("Step "):
            yield text[:100]
        _check_message(message, last)


def _check_message(message: dict[str, Any], context: str = "") -> None:
    if "error" in message:
        raise ServerError(" ".join(filter(None, [context, str(message["error"]).strip()])))
