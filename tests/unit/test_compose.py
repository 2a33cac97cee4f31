"""docker-compose.yml and what it runs: closed to the outside, valid for Compose, and one with `server up`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.options import HTTP_MAX_INPUT_BYTES, Options, triton_arguments
from server.runtimes.docker_image import BUILD_VARIABLES, CPU_IMAGE, PILLOW_SUFFIX
from server.security import RequestTokens, Security
from tests.programs import ROOT
from tests.web import ANY_PORT, Quiet, listening
from tritonkit.triton.releases import DEFAULT_IMAGE, release_of

PAGES = [page for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if "\ndocker compose" in page.read_text()]
TRITONS = ("triton", "triton-cpu")
TOOLS = ("train", "train-cpu", "builder", "builder-cpu")
ENTRYPOINT = ROOT / "deploy" / "entrypoint.sh"
ADMIN = {"TRITONKIT_ADMIN_TOKEN": "admin"}


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


@pytest.mark.parametrize("name", ["triton", "train", "builder"])
def test_only_the_service_without_cpu_in_its_name_reserves_a_gpu(services: dict[str, Any], name: str) -> None:
    devices = services[name]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert "deploy" not in services[f"{name}-cpu"]


@pytest.mark.parametrize("name", TOOLS)
def test_tool_runs_without_root_in_the_current_folder_and_ends(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["entrypoint"] == [name.removesuffix("-cpu")]
    assert service["user"] == "${TRAIN_USER:-1000:1000}"
    assert (service["read_only"], service["cap_drop"], service["restart"]) == (True, ["ALL"], "no")
    assert service["volumes"] == ["${PWD:-.}:${PWD:-/work}"]
    assert service["working_dir"] == "${PWD:-/work}"
    caches = {"TRITONKIT_CACHE", "HF_HOME", "TORCH_HOME"}
    for variable in caches:
        assert service["environment"][variable].startswith("${PWD:-/work}/.cache/")  # the rest is gone after the run
    assert service["shm_size"] == services["triton"]["shm_size"]
    assert "ports" not in service
    credentials = set(service["environment"]) - caches
    assert {"MLFLOW_TRACKING_TOKEN", "AWS_PROFILE", "AZURE_STORAGE_ACCOUNT_KEY", "FSSPEC_S3"} <= credentials
    assert credentials == (
        variables_in("training.md", "Trackers")
        | variables_in("remotes.md", "Credentials")
        | variables_in("experiments.md", "Search")
    )
    for variable in credentials:
        assert service["environment"][variable] is None  # unset outside: unset inside, not empty


def variables_in(page: str, section: str) -> set[str]:
    """The settings of stores, trackers and studies that a section of the docs names."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"\b(?:(?:MLFLOW|AWS|FSSPEC|GOOGLE|AZURE)_[A-Z0-9_]+|TRITONKIT_STUDY)", text))


def test_image_of_the_tools_has_the_packages_of_the_development_environment() -> None:
    pinned = [
        dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / f"{name}.lock").read_text(), re.MULTILINE))
        for name in ("train", "dev")
    ]
    assert {"torch", "lightning", "onnxruntime", "mlflow-skinny"} <= pinned[0].keys()
    assert pinned[0].items() <= pinned[1].items()


def test_compose_and_the_docker_runtime_serve_by_the_same_images(services: dict[str, Any]) -> None:
    base = f"${{TRITON_IMAGE:-{DEFAULT_IMAGE}}}"
    assert services["triton"]["image"] == f"{base}{PILLOW_SUFFIX}"
    assert services["triton"]["build"]["args"]["TRITON_IMAGE"] == base
    assert services["triton-cpu"]["image"] == f"${{TRITON_CPU_IMAGE:-{CPU_IMAGE}}}"
    assert services["triton-cpu"]["build"]["target"] == "cpu"
    dockerfile = (ROOT / services["triton"]["build"]["dockerfile"]).read_text()
    assert f"ARG TRITON_IMAGE={DEFAULT_IMAGE}\n" in dockerfile
    assert release_of(f"{DEFAULT_IMAGE}{PILLOW_SUFFIX}") == release_of(DEFAULT_IMAGE)


@pytest.mark.parametrize("name", [*TRITONS, "train-cpu"])
def test_compose_builds_with_the_settings_of_the_environment_that_the_docker_runtime_does(
    services: dict[str, Any], name: str
) -> None:
    given = services[name]["build"]["args"]
    assert {setting: given.get(setting, "not given") for setting in BUILD_VARIABLES} == dict.fromkeys(BUILD_VARIABLES)


@pytest.mark.parametrize("name", [*TRITONS, "train-cpu"])
def test_image_is_built_of_files_that_the_engine_is_given(services: dict[str, Any], name: str) -> None:
    given = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    text = (ROOT / services[name]["build"]["dockerfile"]).read_text()
    lock = re.search(r"^ARG LOCK=(\S+)", text, re.MULTILINE)
    lines = text.replace("${LOCK}", lock[1] if lock else "").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied
    files = {file for each in copied for file in each}
    assert {file for file in files if not {file, file.partition("/")[0]} & set(given)} == set()


def test_image_is_new_enough_and_the_example_settings_are_the_defaults() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    release = settings["TRITON_IMAGE"].rpartition(":")[2].removesuffix("-py3")
    assert tuple(map(int, release.split("."))) >= (26, 6)
    text = (ROOT / "docker-compose.yml").read_text()
    assert not [key for key, value in settings.items() if f"${{{key}:-{value}}}" not in text]


def test_pictures_are_decoded_by_one_pillow_everywhere() -> None:
    names = ("dev", "train", "client", "triton", "decode", "signing")
    locks = [ROOT / "requirements" / f"{name}.lock" for name in names]
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
        profiles = ["--profile", "cpu", "--profile", "tools", "--profile", "monitoring"]
        checked = subprocess.run([*command, *profiles, "config"], cwd=ROOT, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


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
        ({"REQUIRE_SIGNED": "model.pub"}, "REQUIRE_SIGNED=model.pub: this image cannot check signatures"),
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

    class Triton(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in ready else 400)
            self.end_headers()

    with listening(ThreadingHTTPServer(ANY_PORT, Triton)) as server:
        done = entered(models, settings, "healthy", f"http://127.0.0.1:{server.server_port}")
    assert (done.returncode, done.stderr) == (code, "")
