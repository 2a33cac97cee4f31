"""Addresses of databases: a SQLite file, or PostgreSQL."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tritonkit.remotes.addresses import has_secret

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
_DRIVERS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "postgres": POSTGRESQL, POSTGRESQL: POSTGRESQL}


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
    return address.set(drivername=driver)


def public_address(address: URL) -> str:
    """Write an address without its password and without other secrets in its query."""
    return address.difference_update_query(secret_keys(address)).render_as_string()


def secret_keys(address: URL) -> list[str]:
    """Return the fields of the query that are secrets, such as `sslpassword`."""
    return [key for key in address.query if has_secret(f"?{key}=")]
