"""docker-compose.yml and what it runs: closed to the outside, valid for Compose, and one with `server up`."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.options import HTTP_MAX_INPUT_BYTES, Options, triton_arguments
from server.security import RequestTokens, Security
from tritonkit.triton.releases import DEFAULT_IMAGE

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "deploy" / "entrypoint.sh"
ADMIN = {"TRITONKIT_ADMIN_TOKEN": "admin"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


def test_grafana_does_not_start_when_no_password_is_set(services: dict[str, Any]) -> None:
    service = services["grafana"]
    assert service["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-}"
    command = [part.replace("$$", "$") for part in service["entrypoint"]]
    refused = subprocess.run(command, env={"GF_SECURITY_ADMIN_PASSWORD": ""}, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (2, "error: set GRAFANA_ADMIN_PASSWORD in .env\n")


def test_compose_accepts_the_file() -> None:
    commands = [["docker-compose"], ["docker", "compose"]]
    usable = [
        command
        for command in commands
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0
    ]
    if not usable:
        pytest.skip("neither docker-compose nor docker compose is installed")
    for command in usable:
        profiles = ["--profile", "cpu", "--profile", "monitoring"]
        checked = subprocess.run([*command, *profiles, "config"], cwd=ROOT, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("pets", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path / "models"


def entered(
    models: Path, settings: dict[str, str], *options: str, help_text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the entrypoint with a program that stands in for Triton's; its output is Triton's command line."""
    programs = models.parent / "bin"
    programs.mkdir(exist_ok=True)
    helped = f"[ \"$*\" != --help ] || echo '{help_text}'\n" if help_text else ""
    (programs / "tritonserver").write_text(f"#!/bin/sh\n{helped}printf '%s\\n' \"$@\"\n")
    (programs / "tritonserver").chmod(0o755)
    environment = {"PATH": f"{programs}:{os.defpath}", "MODELS_FOLDER": str(models), **settings}
    command = ["/bin/sh", str(ENTRYPOINT), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_entrypoint_says_what_server_up_says(models: Path) -> None:
    certificates = models.parent / "tls"
    certificates.mkdir()
    for name in ("server.pem", "server.key", "clients.pem"):
        (certificates / name).touch()
    settings = {
        **ADMIN,
        "TRITONKIT_TOKEN": "use",
        "TLS_MOUNT": str(certificates),
        "TLS_CERTIFICATE": "server.pem",
        "TLS_KEY": "server.key",
        "TLS_CA": "clients.pem",
        "GRPC_ADDRESS": "0.0.0.0",
        "MODELS": "pets, other",
        "CACHE_MIB": "3",
        "VERSION_COMPATIBLE": "yes",
    }
    security = Security(
        tls_certificate=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tls_ca=certificates / "clients.pem",
        expose=True,
    )
    options = Options(
        repository=models,
        runtime="docker",
        host="0.0.0.0",
        models=("pets", "other"),
        cache_mib=3,
        version_compatible=True,
        security=security,
    )
    wanted = triton_arguments(options, RequestTokens(admin="admin", use="use"), str(models), bind="0.0.0.0")
    done = entered(models, settings)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(wanted)


def test_entrypoint_says_what_server_up_says_when_nothing_is_set(models: Path) -> None:
    options = Options(repository=models, runtime="docker")
    wanted = triton_arguments(options, RequestTokens(admin="admin"), str(models), bind="0.0.0.0")
    assert sorted(entered(models, ADMIN).stdout.splitlines()) == sorted(wanted)


def test_entrypoint_and_server_up_let_large_requests_through_where_triton_has_a_bound(models: Path) -> None:
    options = Options(repository=models, runtime="docker", image=DEFAULT_IMAGE)
    wanted = triton_arguments(options, RequestTokens(admin="admin"), str(models), bind="0.0.0.0")
    assert f"--http-max-input-size={HTTP_MAX_INPUT_BYTES}" in wanted
    done = entered(models, ADMIN, help_text="  --http-max-input-size <integer>")
    assert sorted(done.stdout.splitlines()) == sorted(wanted)


def test_entrypoint_gives_further_options_the_last_word(models: Path) -> None:
    assert entered(models, ADMIN, "--http-port=9000").stdout.splitlines()[-1] == "--http-port=9000"
    assert entered(models, {}, "tritonserver", "--help").stdout == "--help\n"


def test_entrypoint_closes_the_repository_api_when_no_token_is_set(models: Path) -> None:
    first, second = entered(models, {}), entered(models, {})
    assert "TRITONKIT_ADMIN_TOKEN" in first.stderr
    assert "--http-restricted-api=model-repository,trace,logging,shared-memory:tritonkit-token=" in first.stdout
    assert first.stdout != second.stdout


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"GRPC_ADDRESS": "0.0.0.0"}, "GRPC_ADDRESS=0.0.0.0"),
        ({"TRITONKIT_TOKEN": "two words"}, "TRITONKIT_TOKEN: a token holds letters, digits"),
        ({"TLS_CERTIFICATE": "gone.pem", "TLS_KEY": "gone.key"}, "gone.pem cannot be read by user"),
        ({"TLS_CERTIFICATE": "entrypoint.sh", "TLS_MOUNT": str(ENTRYPOINT.parent)}, "TLS_CERTIFICATE needs TLS_KEY"),
        ({"TLS_CERTIFICATE": "monitoring", "TLS_MOUNT": str(ENTRYPOINT.parent)}, "monitoring cannot be read by user"),
        ({"TLS_CA": "entrypoint.sh", "TLS_MOUNT": str(ENTRYPOINT.parent)}, "TLS_CA (mutual TLS) needs TLS_CERTIFICATE"),
        ({"TLS_KEY": "server.key"}, "TLS_KEY needs TLS_CERTIFICATE"),
        (
            {"TLS_CERTIFICATE": "../x", "TLS_KEY": "x"},
            "TLS_CERTIFICATE=../x: expected the name of a file in TLS_FOLDER",
        ),
        ({"TLS_CERTIFICATE": "/x", "TLS_KEY": "x"}, "TLS_CERTIFICATE=/x: expected the name of a file in TLS_FOLDER"),
        ({"MODELS": "pets ../x"}, "MODELS: ../x is"),
        ({"MODELS": ".hidden"}, "MODELS: .hidden is"),
        ({"VERSION_COMPATIBLE": "true"}, "VERSION_COMPATIBLE=true: expected yes or no"),
        ({"CACHE_MIB": "64mb"}, "CACHE_MIB=64mb: expected a whole number of MiB"),
        ({"CACHE_MIB": "08"}, "CACHE_MIB=08: expected a whole number of MiB"),
    ],
)
def test_entrypoint_refuses_settings_that_do_not_fit(models: Path, settings: dict[str, str], reason: str) -> None:
    done = entered(models, settings)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("answering", "settings", "code"),
    [
        ({"health", "pets"}, {}, 0),
        ({"health", "pets"}, {"MODELS": "other,pets"}, 0),
        ({"health", "pets"}, {"MODELS": "other"}, 1),
        ({"health"}, {}, 1),
        ({"pets", "other"}, {}, 1),
        (set(), {}, 1),
    ],
)
def test_container_is_healthy_when_one_of_its_models_answers(
    models: Path, answering: set[str], settings: dict[str, str], code: int
) -> None:
    ready = {"/v2/health/ready"} if "health" in answering else set()
    ready |= {f"/v2/models/{name}/ready" for name in answering - {"health"}}

    class Triton(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in ready else 400)
            self.end_headers()

        def log_message(self, *said: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Triton) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = entered(models, settings, "healthy", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert (done.returncode, done.stderr) == (code, "")
