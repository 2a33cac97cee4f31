"""fsspec's file system of an address, and its library's errors as those of tritonkit."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tritonkit.errors import ExternalError, InputError, TritonkitError, first_line
from tritonkit.remotes.addresses import DVC, public_name, without_secrets

Fault = Literal["absent", "forbidden", "unreachable", "failed"]
"""Nothing has this name; the store refuses these credentials; no answer came; anything else."""
_EXTRAS = {"dvc": "dvc"}
"""The extra that installs a scheme's library, where it is not `remote`."""
_DVC = re.compile(r"(?:(?P<repository>.+):)?(?:(?P<revision>[^:@]*)@)?(?P<path>[^:]*)")
_LONGEST = 300
"""Characters of a library's message."""
_CONNECT_S, _READ_S = 10, 60
_FORBIDDEN = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ClientAuthenticationError"}
_UNREACHABLE = {
    *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError"),
    *("ClientConnectionError", "ClientPayloadError", "ServiceRequestError", "ServiceResponseError", "CloneError"),
    *("ResponseStreamingError", "IncompleteReadError", "TransportError"),
}
"""Exceptions of botocore, aiohttp, httpx, azure-core and DVC, by name: their libraries are optional."""
_ABSENT = {"RevError", "ResourceNotFoundError", "NoSuchBucket"}
_SCHEMES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "http", "https", "dvc"}
"""The schemes whose libraries our extras install."""
_HINTS = {
    "s3": "set or correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket set "
    "FSSPEC_S3='{\"anon\": true}'",
    "gs": "set or correct GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
    "az": "set or correct AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
}
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}


def open_filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address and the path in it, without a request. Raises InputError."""
    scheme = address.partition("://")[0].lower()
    install = f"install it with: pip install 'tritonkit[{_EXTRAS.get(scheme, 'remote')}]'"
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise InputError(f"{scheme}:// needs fsspec; {install}", code="install.missing_module") from error
    try:
        if address.startswith(DVC):
            return _open_dvc(fsspec, address)
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises
        # No cache of listings: each is read once, and they are large.
        files, path = fsspec.core.url_to_fs(address, use_listings_cache=False, **_timeouts(scheme))
    except ImportError as error:
        hint = install if scheme in _SCHEMES else first_line(error)
        raise InputError(
            f"{scheme}:// needs a library that is missing; {hint}", code="install.missing_module"
        ) from error
    except Exception as error:
        if fault_of(error) != "failed":  # some connect at once
            raise error_of(error, address) from error
        others = "expected s3://, gs://, az://, https://, dvc:// or another scheme of fsspec"
        hint = _HINTS.get(_ALIASES.get(scheme, scheme), "" if scheme in _SCHEMES else others)
        reason = "; ".join(filter(None, [reason_of(error, address), hint]))
        raise InputError(f"{public_name(address)}: {reason}", code="store.address") from error
    return files, str(path)


def fault_of(error: BaseException) -> Fault:
    """Classify an exception of a store's library by its type and by what caused it."""
    chain = list(_chain(error))
    if any(_is_forbidden(each) for each in chain):
        return "forbidden"
    # fsspec raises FileNotFoundError for every failure of HTTP, with the real one as its cause.
    if any(_is_unreachable(each) for each in chain):
        return "unreachable"
    if any(isinstance(each, FileNotFoundError) or _has_name(each, _ABSENT) for each in chain):
        return "absent"
    return "failed"


def reason_of(error: BaseException, address: str) -> str:
    """Return the library's own words in one line, without the secrets of the address."""
    causes = [each for each in _chain(error) if str(each) and not isinstance(each, FileNotFoundError)]
    causes = [each for each in causes if str(each) != "SCM error"] or causes  # what DVC says of every failure of git
    message = getattr(error, "strerror", None) or str(causes[0] if causes else error) or type(error).__name__
    return without_secrets(" ".join(message.split()), address)[:_LONGEST]


def error_of(error: BaseException, address: str) -> TritonkitError:
    """Return the error to raise for a failed request to the store of an address."""
    name, reason = public_name(address), f" ({reason_of(error, address)})"
    scheme = address.partition("://")[0].lower()
    match fault_of(error):
        case "absent":
            return InputError(
                f"{name}: no file, folder or bucket has this name{reason}; check the spelling", code="remote.absent"
            )
        case "forbidden":
            hint = _HINTS.get(_ALIASES.get(scheme, scheme), "check the user, the password or the signature")
            return InputError(
                f"{name}: the store refuses the credentials of this environment{reason}; {hint}",
                code="remote.forbidden",
            )
        case "unreachable":
            endpoint = os.environ.get("AWS_ENDPOINT_URL") if scheme == "s3" else None
            where = f" at AWS_ENDPOINT_URL {public_name(endpoint)}" if endpoint else ""
            return ExternalError(
                f"{name}: the store{where} cannot be reached{reason}; check the network and the address, then run the "
                "command again, which continues where it stopped",
                code="remote.unreachable",
            )
    if isinstance(error, ValueError) or _has_name(error, {"ParamValidationError"}):
        return InputError(f"{name}: is not an address of this store{reason}", code="store.address")
    return ExternalError(f"{name}: cannot be read: {type(error).__name__}{reason}", code="remote.failed")


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Raise `error_of` for any exception of the store's library."""
    try:
        yield
    except TritonkitError:
        raise
    except Exception as error:  # each store's library has its own exceptions
        raise error_of(error, address) from error


def _open_dvc(fsspec: Any, address: str) -> tuple[Any, str]:
    """Open `dvc://[REPOSITORY:][REVISION@]PATH`, as fsspec writes the addresses of git."""
    parts = _DVC.fullmatch(address.removeprefix(DVC))
    if parts is None or not parts["path"]:
        raise ValueError("expected dvc://[REPOSITORY:][REVISION@]PATH")
    repository = parts["repository"]
    if repository and "://" not in repository and "@" not in repository and not Path(repository).is_dir():
        raise ValueError(f"{repository} is no folder, and no address of git")
    options = {"url": repository or os.getcwd(), "rev": parts["revision"] or None}  # noqa: PTH109 - text
    return fsspec.filesystem("dvc", **options), parts["path"].rstrip("/")


def _timeouts(scheme: str) -> Mapping[str, Any]:
    """Return the options that make a host that does not answer fail in seconds."""
    if scheme in ("s3", "s3a"):
        return {"config_kwargs": {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S}}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    return {}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__


def _is_forbidden(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or _status(error) in (401, 403) or _has_name(error, _FORBIDDEN)


def _is_unreachable(error: BaseException) -> bool:
    is_network = isinstance(error, ConnectionError | TimeoutError) or _has_name(error, _UNREACHABLE)
    return is_network or (_status(error) or 0) >= 500 or _status(error) in (408, 425, 429)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error of aiohttp or azure-core."""
    status = getattr(error, "status", getattr(error, "status_code", None))
    return status if isinstance(status, int) else None


def _has_name(error: BaseException, names: set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)
