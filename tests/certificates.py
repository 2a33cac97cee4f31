"""Certificates that openssl makes."""

from __future__ import annotations

import subprocess
from pathlib import Path


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _sign(folder: Path, name: str, extension: str, days: int, *signer: object) -> None:
    """Make a key and its certificate with one extension; with negative `days` it has expired."""
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", *kind, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr", "-subj", f"/CN={name}")
    (folder / "names.cnf").write_text(f"{extension}\n")
    request = ("-req", "-in", folder / f"{name}.csr", "-days", days, "-extfile", folder / "names.cnf")
    openssl("x509", *request, *signer, "-out", folder / f"{name}.pem")


def make_authority(folder: Path, name: str, days: int = 2) -> None:
    _sign(folder, name, "basicConstraints = critical, CA:TRUE", days, "-signkey", folder / f"{name}.key")


def make_certificate(folder: Path, name: str, names: str, authority: str = "ca", days: int = 2) -> None:
    """Make a certificate for hosts, such as `IP:127.0.0.1, DNS:localhost`."""
    signer = ("-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key", "-CAcreateserial")
    _sign(folder, name, f"subjectAltName = {names}", days, *signer)
