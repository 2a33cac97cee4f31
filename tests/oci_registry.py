"""A real OCI registry on this machine: the Debian package `docker-registry`, unpacked without installing it."""

from __future__ import annotations

import fcntl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.certificates import make_authority
from tests.programs import ROOT
from tritonkit.system.commands import free_ports

_FOLDER = ROOT / ".cache" / "programs" / "docker-registry"
_START_S = 20
# The password is s3cret, as bcrypt.
_HTPASSWD = "known:$2b$04$.1b3ZOaej5RXDpfxgKW3Je5aiOiKkGMh2oN2l7EoOC9hhbjqkBY1y\n"


def registry_program() -> Path:
    """Return the program, fetched once; skips the test where that is not possible."""
    program = _FOLDER / "usr" / "bin" / "docker-registry"
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            try:
                subprocess.run(["apt-get", "download", "docker-registry"], cwd=_FOLDER, check=True, capture_output=True)
                (archive,) = _FOLDER.glob("*.deb")
                subprocess.run(["dpkg", "-x", archive, _FOLDER], check=True, capture_output=True)
            except (OSError, ValueError, subprocess.CalledProcessError) as error:
                pytest.skip(f"needs the Debian package docker-registry, which cannot be fetched: {error}")
    return program


@dataclass
class OciRegistry:
    """`kill` and `start` again keep its address and its images."""

    folder: Path
    auth: str = ""
    """The setting `auth` of its configuration, as YAML; by default it knows everybody."""
    port: int = field(default_factory=lambda: free_ports(1)[0])
    _process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def require_password(self) -> None:
        """Know only the user `known` with the password `s3cret`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "htpasswd").write_text(_HTPASSWD)
        self.auth = f"{{htpasswd: {{realm: tests, path: {self.folder / 'htpasswd'}}}}}"

    def require_tokens(self, realm: str) -> None:
        """Send clients to a token server, which signs with `token.key` in the folder of the registry."""
        self.folder.mkdir(parents=True, exist_ok=True)
        make_authority(self.folder, "token")
        bundle = self.folder / "token.pem"
        self.auth = f"{{token: {{realm: '{realm}', service: store, issuer: tests, rootcertbundle: {bundle}}}}}"

    def start(self) -> None:
        """Start the registry and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            "version: 0.1",
            f"storage: {{filesystem: {{rootdirectory: {self.folder / 'data'}}}}}",
            f"http: {{addr: '{self.host}'}}",
            f"auth: {self.auth}" if self.auth else "",
        ]
        (self.folder / "config.yml").write_text("\n".join(lines))
        with (self.folder / "log").open("ab") as log:
            command = [registry_program(), "serve", self.folder / "config.yml"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(urllib.error.URLError):
                try:
                    urllib.request.urlopen(f"http://{self.host}/v2/").close()
                except urllib.error.HTTPError as error:
                    if error.code != 401:
                        raise
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"the registry did not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill the registry."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
