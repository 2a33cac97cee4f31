"""Addresses of databases: a SQLite file, or PostgreSQL."""

from __future__ import annotations

from importlib.util import find_spec

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tritonkit.errors import ConfigError
from tritonkit.remotes.addresses import has_secret
from tritonkit.system.env_file import settings_with_prefix

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
_DRIVERS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "postgres": POSTGRESQL, POSTGRESQL: POSTGRESQL}


def database_address(value: str | None, option: str, variable: str, extra: str) -> URL | None:
    """Return the address of an option, else that of the environment or `.env`; None if neither is set.

    extra: of our package, with the driver of PostgreSQL. Raises ConfigError for an address that is no database that can
    be used, and for a password in the option, which other users of the machine can see.
    """
    text = value or settings_with_prefix(variable).get(variable)
    if not text:
        return None
    try:
        address = parse_database_url(text)
    except ValueError as error:
        raise ConfigError(f"{option if value else variable}: {error}", code="database.address") from error
    if value and (address.password or secret_keys(address)):
        raise ConfigError(
            f"{option} {public_address(address)}: has a password, which other users of this machine can see; set "
            f"{variable} in the environment or in .env to the address",
            code="database.password",
        )
    if address.drivername == POSTGRESQL and find_spec("psycopg") is None:
        raise ConfigError(
            f"PostgreSQL needs the Python module psycopg; install it with: pip install 'tritonkit[{extra}]'",
            code="install.missing_module",
        )
    return address


def parse_database_url(text: str) -> URL:
    """Parse an address, with the driver that we use. Raises ValueError, whose message has no secrets."""
    try:
        address = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ValueError(
            "the address of the database cannot be read; expected one such as postgresql://HOST/DATABASE or "
            "sqlite:///FILE"
        ) from error
    if password := address.query.get("password"):  # where SQLAlchemy hides it
        address = address.difference_update_query(["password"]).set(password=str(password))
    driver = _DRIVERS.get(address.drivername)
    if driver is None or not address.database:
        raise ValueError(
            f"{public_address(address)}: is no database that can be used; expected postgresql://HOST/DATABASE or "
            "sqlite:///FILE"
        )
    if driver == SQLITE and (address.query or address.database.startswith((":", "file:"))):
        raise ValueError(
            f"{public_address(address)}: a SQLite database must be a file, without options; expected sqlite:///FILE"
        )
    return address.set(drivername=driver)


def public_address(address: URL) -> str:
    """Write an address without its password and without other secrets in its query."""
    return address.difference_update_query(secret_keys(address)).render_as_string()


def secret_keys(address: URL) -> list[str]:
    """Return the fields of the query that are secrets, such as `sslpassword`."""
    return [key for key in address.query if has_secret(f"?{key}=")]
