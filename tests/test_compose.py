"""docker-compose.yml says what production needs, and is valid for Compose."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


@pytest.mark.parametrize("name", ["triton", "triton-cpu"])
def test_service_is_closed_to_the_outside(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["user"] == "1000:1000"
    assert [volume.rpartition(":")[2] for volume in service["volumes"]] == ["ro"]
    assert "v2/health/ready" in service["healthcheck"]["test"][-1]


def test_only_the_first_service_reserves_a_gpu(services: dict[str, Any]) -> None:
    devices = services["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert "deploy" not in services["triton-cpu"]


def test_image_is_new_enough_and_the_example_settings_are_the_defaults(services: dict[str, Any]) -> None:
    settings = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "=" in line and line[0] != "#"
    )
    image = services["triton"]["image"]
    assert image == f"${{TRITON_IMAGE:-{settings['TRITON_IMAGE']}}}"
    release = settings["TRITON_IMAGE"].rpartition(":")[2].removesuffix("-py3")
    assert tuple(map(int, release.split("."))) >= (26, 6)
    text = (ROOT / "docker-compose.yml").read_text()
    assert all(f"${{{key}:-{value}}}" in text for key, value in settings.items())


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
        checked = subprocess.run([*command, "config"], cwd=ROOT, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
