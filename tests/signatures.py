"""Keys, and signatures that `builder sign` would refuse to make."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing

from tritonkit.repository.signing.check import hashing_config
from tritonkit.repository.signing.signed_files import SignedFiles


def write_keys(folder: Path, name: str, encryption: serialization.KeySerializationEncryption | None = None) -> Path:
    """Write NAME.pem and NAME.pub; return the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, pkcs8, encryption or serialization.NoEncryption())
    (folder / f"{name}.pem").write_bytes(private)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pub"


def sign_anyway(version: Path, private_key: Path) -> None:
    """Sign a version as it is now, with the files that it shares, whatever `builder sign` would say."""
    SignedFiles.of(version.parent).write(version)
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key)
    with tempfile.TemporaryDirectory() as folder:
        signature = Path(folder) / "model.sig"
        signer.set_hashing_config(hashing_config()).sign(version, signature)
        (version / signature.name).write_bytes(signature.read_bytes())
