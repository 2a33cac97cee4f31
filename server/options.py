"""The options of a server, and the command line of `tritonserver` made from them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from server.security import Security, security_arguments
from tritonkit.options import CommandLine, UserPath, option_error
from tritonkit.options import Options as CommandOptions
from tritonkit.repository.compatibility import SERVE_COMPATIBLE
from tritonkit.triton.connection import RequestTokens
from tritonkit.triton.releases import release_of

LOOPBACK = "127.0.0.1"
HTTP_MAX_INPUT_BYTES = 257 * 2**20
"""Largest HTTP request: an image file of 256 MiB, the most that `NAME_encoded` reads, and its header."""
HTTP_MAX_INPUT_RELEASE = "25.08"
"""The first release known to have `--http-max-input-size` (server, pull request 8174), whose default is 64 MiB."""
RuntimeName = Literal["pip", "docker"]
Port = Annotated[int, Field(ge=1, le=65535)]


class TritonOptions(CommandOptions):
    """What Triton serves, where, and by which runtime.

    Refuses a host that is not an IPv4 address, and Docker options with the pip runtime.
    """

    repository: UserPath = Path("model_repository")
    """The model repository to serve."""
    models: Annotated[tuple[str, ...], CommandLine("--model")] = ()
    """Only this model and the models it needs; repeatable."""
    runtime: RuntimeName = "pip"
    """pip: NVIDIA's binary from a wheel; docker: a container."""
    image: str | None = None
    """The image of --runtime docker."""
    http_port: Port = 8000
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    host: str = LOOPBACK
    """The IPv4 address to listen on; with --expose other machines can reach it."""
    cache_mib: NonNegativeInt = 0
    """MiB for cached responses of models exported with --response-cache; 0: no cache."""
    version_compatible: bool = False
    """Load version-compatible TensorRT plans; they contain code."""
    require_signed: Annotated[UserPath | None, CommandLine(metavar="KEY.pub")] = None
    """Refuse models that were not signed by `builder sign` with the private key of this public key (PEM)."""

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            message = "expected an IPv4 address of this machine, such as 0.0.0.0"
            raise option_error(message, code="option.host") from error

    @model_validator(mode="after")
    def _check_runtime_options(self) -> Self:
        if self.image is not None and self.runtime != "docker":
            message = f"--image {self.image}: the pip runtime runs no image; add --runtime docker"
            raise option_error(message, code="option.needs_docker")
        if self.version_compatible and self.runtime != "docker":
            message = "--version-compatible: the pip runtime has no TensorRT; add --runtime docker"
            raise option_error(message, code="option.needs_docker")
        return self


class Options(TritonOptions):
    """The options of a server."""

    security: Security = Security()

    @property
    def ports(self) -> dict[str, int]:
        """The port of each service: HTTP, gRPC and metrics."""
        return {"HTTP": self.http_port, "gRPC": self.grpc_port, "metrics": self.metrics_port}

    @property
    def bind_addresses(self) -> dict[str, tuple[str, int]]:
        """The address and port of each service, on this machine."""
        addresses = {"HTTP": self.http_host, "gRPC": self.host, "metrics": self.http_host}
        return {title: (addresses[title], port) for title, port in self.ports.items()}

    @property
    def http_host(self) -> str:
        """The address that HTTP and metrics listen on: loopback if gRPC has TLS, because Triton's HTTP has none."""
        return LOOPBACK if self.is_exposed and self.security.has_tls else self.host

    @property
    def is_exposed(self) -> bool:
        """Whether other machines may reach the server."""
        return not ipaddress.ip_address(self.host).is_loopback

    @property
    def http_url(self) -> str:
        """The HTTP URL for clients on this machine."""
        return f"http://{connect_address(self.http_host)}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """The gRPC address for clients on this machine, HOST:PORT."""
        return f"{connect_address(self.host)}:{self.grpc_port}"

    @property
    def grpc_text(self) -> str:
        """The address that gRPC listens on, and whether it uses TLS, as shown to a user."""
        return f"{self.host}:{self.grpc_port}{' with TLS' if self.security.has_tls else ''}"


class UpOptions(Security, TritonOptions):
    """The options of `server up` and `server doctor`."""

    @property
    def server_options(self) -> Options:
        """The same options, with those of security apart."""
        values = self.model_dump()
        return Options(security=Security(**{name: values.pop(name) for name in Security.model_fields}), **values)


def connect_address(host: str) -> str:
    """Return the address to connect to for an address to listen on: loopback for 0.0.0.0."""
    return LOOPBACK if ipaddress.ip_address(host).is_unspecified else host


def triton_arguments(
    options: Options,
    tokens: RequestTokens,
    repository: str,
    bind: str | None = None,
    backend_directory: str | None = None,
) -> list[str]:
    """Return the arguments of `tritonserver`.

    repository, backend_directory, and the files of `options.security`: paths that are valid for that process.
    bind: one address for all ports, such as 0.0.0.0 in a container; None takes the addresses of `options`.
    """
    addresses = {title.lower(): bind or host for title, (host, _) in options.bind_addresses.items()}
    arguments = [f"--model-repository={repository}"]
    if backend_directory is not None:
        arguments.append(f"--backend-directory={backend_directory}")
    arguments += [f"--{title}-address={address}" for title, address in addresses.items()]
    arguments += [f"--{title.lower()}-port={port}" for title, port in options.ports.items()]
    if options.cache_mib:
        arguments.append(f"--cache-config=local,size={options.cache_mib * 2**20}")
    if options.version_compatible:
        arguments.append(SERVE_COMPATIBLE)
    release = release_of(options.image or "")
    if release is not None and release.release >= HTTP_MAX_INPUT_RELEASE:
        arguments.append(f"--http-max-input-size={HTTP_MAX_INPUT_BYTES}")
    return [
        *arguments,
        "--model-control-mode=explicit",
        "--strict-readiness=false",  # a failed version must not make the server unready
        "--exit-on-error=false",  # nor keep the other models from loading after a restart
        *(f"--load-model={model}" for model in options.models or ("*",)),
        "--exit-timeout-secs=20",
        *security_arguments(
            options.security, tokens, shared_memory_is_admin=options.is_exposed or options.runtime == "docker"
        ),
    ]
