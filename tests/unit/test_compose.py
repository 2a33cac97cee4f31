"""docker-compose.yml and what it runs: closed to the outside, valid for Compose, and one with `server up`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.options import Options, triton_arguments
from server.runtimes.docker_image import BUILD_VARIABLES, CPU_IMAGE, PILLOW_SUFFIX
from server.security import RequestTokens
from tritonkit.triton.releases import DEFAULT_IMAGE, release_of

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if "\ndocker compose" in page.read_text()]
TRITONS = ("triton", "triton-cpu")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


@pytest.mark.parametrize("name", [*TRITONS, "prometheus", "grafana"])
def test_service_is_closed_to_the_outside(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert all(port.startswith(("127.0.0.1:", "${GRPC_ADDRESS:-127.0.0.1}:")) for port in service["ports"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    mounted = [volume for volume in service["volumes"] if volume.startswith((".", "$"))]
    assert {volume.rpartition(":")[2] for volume in mounted} == {"ro"}


@pytest.mark.parametrize("name", TRITONS)
def test_triton_runs_without_root_and_is_asked_for_its_health(services: dict[str, Any], name: str) -> None:
    assert services[name]["user"] == "1000:1000"
    assert services[name]["healthcheck"]["test"][-2:] == ["healthy", "http://127.0.0.1:8000"]


@pytest.mark.parametrize("name", TRITONS)
def test_triton_is_not_started_for_ever_when_it_cannot_start(services: dict[str, Any], name: str) -> None:
    assert services[name]["restart"] == "on-failure:5"


def test_only_the_first_service_reserves_a_gpu(services: dict[str, Any]) -> None:
    devices = services["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert "deploy" not in services["triton-cpu"]


def test_compose_and_the_docker_runtime_serve_by_the_same_images(services: dict[str, Any]) -> None:
    base = f"${{TRITON_IMAGE:-{DEFAULT_IMAGE}}}"
    assert services["triton"]["image"] == f"{base}{PILLOW_SUFFIX}"
    assert services["triton"]["build"]["args"]["TRITON_IMAGE"] == base
    assert services["triton-cpu"]["image"] == f"${{TRITON_CPU_IMAGE:-{CPU_IMAGE}}}"
    assert services["triton-cpu"]["build"]["target"] == "cpu"
    dockerfile = (ROOT / services["triton"]["build"]["dockerfile"]).read_text()
    assert f"ARG TRITON_IMAGE={DEFAULT_IMAGE}\n" in dockerfile
    assert release_of(f"{DEFAULT_IMAGE}{PILLOW_SUFFIX}") == release_of(DEFAULT_IMAGE)


@pytest.mark.parametrize("name", TRITONS)
def test_compose_builds_with_the_settings_of_the_environment_that_the_docker_runtime_does(
    services: dict[str, Any], name: str
) -> None:
    given = services[name]["build"]["args"]
    assert {setting: given.get(setting, "not given") for setting in BUILD_VARIABLES} == dict.fromkeys(BUILD_VARIABLES)


@pytest.mark.parametrize("name", TRITONS)
def test_image_is_built_of_files_that_the_engine_is_given(services: dict[str, Any], name: str) -> None:
    given = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    lines = (ROOT / services[name]["build"]["dockerfile"]).read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied
    assert {file for files in copied for file in files} <= set(given)


def test_image_is_new_enough_and_the_example_settings_are_the_defaults() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    release = settings["TRITON_IMAGE"].rpartition(":")[2].removesuffix("-py3")
    assert tuple(map(int, release.split("."))) >= (26, 6)
    text = (ROOT / "docker-compose.yml").read_text()
    assert not [key for key, value in settings.items() if f"${{{key}:-{value}}}" not in text]


def test_pictures_are_decoded_by_one_pillow_everywhere() -> None:
    locks = [ROOT / "requirements" / f"{name}.lock" for name in ("dev", "triton", "decode")]
    assert len({re.findall(r"^pillow==\S+", lock.read_text(), re.MULTILINE)[0] for lock in locks}) == 1


def test_images_of_others_are_pinned(services: dict[str, Any]) -> None:
    for name in ("prometheus", "grafana"):
        tag = services[name]["image"].rpartition(":")[2].rstrip("}")
        assert tag[-1].isdecimal()
        assert tag.count(".") == 2


def test_grafana_fetches_nothing_when_it_starts(services: dict[str, Any]) -> None:
    settings = services["grafana"]["environment"]
    assert settings["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    asking = ("REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES")
    assert {settings[f"GF_ANALYTICS_{name}"] for name in asking} == {"false"}


def profiles_of(services: dict[str, Any], names: list[str]) -> set[str]:
    """The profiles of services, and of those that they need."""
    found: set[str] = set()
    for service in (services[name] for name in names if name in services):
        found |= {*service.get("profiles", ()), *profiles_of(services, service.get("depends_on", []))}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_starts_is_stopped_as_it_says(services: dict[str, Any], page: Path) -> None:
    """`docker compose down` leaves services of profiles that are not named."""
    started: set[str] = set()
    for words in re.findall(r"^docker compose (.*)", page.read_text(), re.MULTILINE):
        said = re.fullmatch(r"((?:--profile \w+ )*)(\w+)(.*)", words)
        assert said, words
        options, verb, rest = said.groups()
        if verb == "up":
            started = profiles_of(services, rest.split())
        if verb == "down":
            assert set(re.findall(r"--profile (\w+)", options)) == started, words
            started = set()
    assert not started, "nothing says how to stop it"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("pets", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path / "models"


@pytest.mark.parametrize("image", ["nvcr.io/nvidia/tritonserver:25.06-py3", "mine/triton:1", None])
def test_server_up_gives_no_option_that_the_image_may_not_know(models: Path, image: str | None) -> None:
    options = Options(repository=models, runtime="docker", image=image)
    arguments = triton_arguments(options, RequestTokens(admin="admin"), str(models))
    assert not [one for one in arguments if one.startswith("--http-max-input-size")]
