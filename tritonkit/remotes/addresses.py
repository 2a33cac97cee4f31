"""Addresses such as `https://HOST/PATH` or `s3://BUCKET/KEY`: their parts, and how they are shown without secrets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

DVC = "dvc://"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ADDRESS = re.compile(rf"{_SCHEME.pattern}\S*")
_IN_TEXT = re.compile(rf"{_SCHEME.pattern}[^\s'\"]+")
"""An address in a text, perhaps in quotes."""
_USER = re.compile(r"(?<=://)[^/?#]*@")
_SIGNATURES = {"sig", "signature", "x-amz-signature", "x-goog-signature"}
# Query fields that belong to a signature: AWS signature versions 2 and 4, CloudFront, Google (the prefixes are below),
# and Azure's shared access signatures.
_SIGNATURE_FIELDS = _SIGNATURES | {"awsaccesskeyid", "googleaccessid", "expires", "policy", "key-pair-id"}
_SIGNATURE_FIELDS |= {"sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "sip"}
_SIGNATURE_FIELDS |= {"skoid", "sktid", "skt", "ske", "sks", "skv"}
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-")
_SECRET_FIELDS = {"token", "access_token", "auth", "key", "api_key", "apikey", "password", "secret", "code"}
_SECRET_WORDS = ("token", "signature", "secret", "password", "passwd", "credential", "accesskey", "apikey")
_CONTAINER_SCHEMES = ("abfs://", "abfss://")
"""Azure's addresses: what stands before the `@` is a container."""


def is_address(text: str) -> bool:
    """Whether the text begins like `https://`."""
    return _SCHEME.match(text) is not None


def is_web(address: str) -> bool:
    """Whether the address is fetched by HTTP."""
    return address.lower().startswith(("http://", "https://"))


def public_name(address: str) -> str:
    """Return the address without user, password and signature; secrets in the query become digests.

    The name is the same for every signature, so that a job can be resumed with newly signed addresses.
    """
    userless_address = _userless(address).encode("utf-8", "backslashreplace").decode("utf-8")
    if not is_web(address):
        return userless_address
    start, mark, query = userless_address.partition("#")[0].partition("?")
    fields = query.split("&")
    is_signed = bool(_SIGNATURES & {_key(field) for field in fields})
    public_fields = []
    for field in fields:
        key, _, value = field.partition("=")
        if is_signed and (_key(field) in _SIGNATURE_FIELDS or _key(field).startswith(_SIGNATURE_PREFIXES)):
            continue
        if _key(field) in _SECRET_FIELDS:
            digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:8]
            field = f"{key}=~{digest}"
        public_fields.append(field)
    public_query = "&".join(public_fields)
    return f"{start}{mark}{public_query}" if public_query else start


def has_secret(address: str) -> bool:
    """Whether the address has a user, or a query field that is a signature or another secret."""
    rest = address.removeprefix(DVC)
    if _USER.search(rest) and not rest.lower().startswith(_CONTAINER_SCHEMES):
        return True
    keys = [_key(field) for field in re.split(r"[?&;#]", rest)[1:]]
    return any(
        key in _SIGNATURES | _SECRET_FIELDS or any(word in re.sub(r"[^a-z]", "", key) for word in _SECRET_WORDS)
        for key in keys
    )


def addresses_with_secrets(document: Any, key: str = "") -> Iterator[str]:
    """The dotted keys of a JSON document whose text has an address with a secret."""
    match document:
        case str():
            if any(has_secret(address) for address in _ADDRESS.findall(document)):
                yield key
        case dict():
            for name, value in document.items():
                yield from addresses_with_secrets(str(name), f"{key}.{name}".lstrip("."))
                yield from addresses_with_secrets(value, f"{key}.{name}".lstrip("."))
        case list() | tuple():
            for number, value in enumerate(document):
                yield from addresses_with_secrets(value, f"{key}.{number}".lstrip("."))


def public_values(document: Any) -> Any:
    """Return a JSON document with the public name of each address in it."""
    match document:
        case str():
            return public_name(document) if is_address(document) else document
        case dict():
            return {key: public_values(value) for key, value in document.items()}
        case list() | tuple():
            return [public_values(value) for value in document]
    return document


def public_text(text: str) -> str:
    """Return a text with the public name of each address in it."""
    return _IN_TEXT.sub(lambda found: public_name(found[0]), text)


def without_secrets(text: str, address: str) -> str:
    """Remove the secrets of an address from a library's message about it."""
    cleaned = public_text(text.replace(address, public_name(address)))  # a library may write it in another way
    match = _USER.search(address, len(DVC) if address.startswith(DVC) else 0)
    user = match.group() if match else ""
    if user:
        cleaned = cleaned.replace(user, "")
    password = user.rstrip("@").partition(":")[2]
    return cleaned.replace(password, "***") if password else cleaned


def address_path(address: str) -> str:
    """Return the part of an address that ends like a file name."""
    return re.split(r"[?#]", address)[0] if is_web(address) else address


def split_address(address: str) -> SplitResult:
    """Split an address. Raises ValueError."""
    parts = urlsplit(address)
    if not parts.hostname or parts.port == 0:
        raise ValueError("the address has no host")
    return parts


def split_host(address: str) -> tuple[str, str]:
    """Return scheme and host of an address that is not HTTP, such as `s3` and the bucket."""
    scheme, _, location = _userless(address).partition("://")
    return scheme, location.partition("/")[0]


def _userless(address: str) -> str:
    """Remove user and password. In `dvc://REVISION@PATH` the revision is none; the address of a repository may."""
    start = DVC if address.startswith(DVC) else ""
    return start + _USER.sub("", address.removeprefix(start))


def _key(field: str) -> str:
    return unquote(field.partition("=")[0]).lower()
