"""The docker runtime, as far as it goes without an engine. `scripts/docker_test.sh` runs it against a real one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
import yaml
from typer.testing import Result

from server.options import Options
from server.runtimes.base import Server
from server.runtimes.docker_image import TritonImages, build_progress, pull_progress, translate_docker_errors
from server.runtimes.docker_runtime import container_settings, engine_has_gpu, has_gpu, select_network
from server.runtimes.table import runtime_of
from server.security import RequestTokens, Security, load_server_tokens
from tests.errors import raises
from tritonkit.errors import InputError, ServerError, TokenError
from tritonkit.system.env_file import setting

ROOT = Path(__file__).parents[3]
TOKENS = RequestTokens(admin="admin")
ROOT_ALONE = pytest.mark.skipif(os.geteuid() != 0, reason="another user's containers run as that user")
Command = Callable[..., Result]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    repository = tmp_path / "repository"
    (repository / "pets").mkdir(parents=True)
    (repository / "pets" / "config.pbtxt").touch()
    repository.chmod(0o755)
    return Options(repository=repository, http_port=9000, grpc_port=9001, metrics_port=9002, runtime="docker")


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, True),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": None}, False),
    ],
)
def test_engine_has_a_gpu_when_it_knows_nvidia(info: dict[str, Any], expected: bool) -> None:
    assert has_gpu(info) is expected


def test_container_is_as_closed_as_compose_s(options: Options) -> None:
    settings = container_settings(options, TOKENS, network=None)
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["triton-cpu"]
    for key in ("read_only", "cap_drop", "security_opt"):
        assert settings[key] == service[key]
    assert settings["shm_size"] in service["shm_size"]
    assert not settings["user"].startswith("0:")
    assert {mount["mode"] for mount in settings["volumes"].values()} == {"ro"}
    assert settings["labels"]["tritonkit"] == "server"


def test_container_answers_on_loopback_alone(options: Options) -> None:
    settings = container_settings(options, TOKENS, network=None)
    ports = {9000, 9001, 9002}
    assert settings["ports"] == {f"{port}/tcp": ("127.0.0.1", port) for port in ports}
    assert "--http-address=0.0.0.0" in settings["command"], "of the container's own network"


def test_container_listens_on_loopback_when_the_network_is_the_machine_s(options: Options) -> None:
    settings = container_settings(options, TOKENS, network="host")
    assert settings["network_mode"] == "host"
    assert "ports" not in settings
    assert {f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")} <= set(settings["command"])


def test_container_publishes_grpc_alone_when_it_is_exposed_with_tls(options: Options, tmp_path: Path) -> None:
    for name in ("server.pem", "server.key"):
        (tmp_path / name).touch()
    security = Security(tls_certificate=tmp_path / "server.pem", tls_key=tmp_path / "server.key", expose=True)
    exposed = options.model_copy(update={"host": "0.0.0.0", "security": security})
    settings = container_settings(exposed, TOKENS, network="models")
    hosts = {port: host for host, port in settings["ports"].values()}
    assert hosts == {9000: "127.0.0.1", 9001: "0.0.0.0", 9002: "127.0.0.1"}
    assert settings["network"] == "models"
    assert settings["volumes"][str(tmp_path / "server.key")] == {"bind": "/tls/tls_key.pem", "mode": "ro"}
    assert "--grpc-server-key=/tls/tls_key.pem" in settings["command"]


@ROOT_ALONE
def test_container_is_refused_when_its_user_cannot_read_the_repository(options: Options) -> None:
    (options.repository / "pets" / "config.pbtxt").chmod(0o600)
    with raises(InputError, "docker.unreadable_file") as caught:
        container_settings(options, TOKENS, network=None)
    assert "pets/config.pbtxt" in str(caught.value)
    assert "chmod -R o+rX" in str(caught.value)


@ROOT_ALONE
def test_container_is_refused_when_its_user_cannot_read_the_key(options: Options, tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    certificate.touch()
    key.touch(mode=0o600)
    closed = options.model_copy(update={"security": Security(tls_certificate=certificate, tls_key=key)})
    with raises(InputError, "docker.unreadable_file") as caught:
        container_settings(closed, TOKENS, network=None)
    assert f"chown 1000 {key} && chmod 400 {key}" in str(caught.value)


class OfTwoNetworks:
    """An engine that has two networks."""

    def __init__(self) -> None:
        self.networks = self

    def list(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("models", "bridge")]


def selected_network(options: Options, name: str) -> str | None:
    (options.repository.parent / ".env").write_text(f"TRITON_NETWORK={name}\n")
    return select_network((docker, OfTwoNetworks()), options)


def test_network_is_refused_when_it_is_not_there(options: Options) -> None:
    assert [selected_network(options, name) for name in ("models", "host", "", "tritonkit")] == [
        "models",
        "host",
        None,
        None,
    ]
    with raises(InputError, "docker.no_network") as caught:
        selected_network(options, "model")
    assert "bridge, models" in str(caught.value)


@pytest.mark.parametrize("address", ["ssh://gpu-box", "tcp://10.0.0.7:2376", "tcp://127.0.0.1.example:2375"])
def test_engine_of_another_machine_is_refused(
    options: Options, address: str, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with raises(InputError, "docker.remote_engine"):
        engine_has_gpu()
    completed = command("server", "doctor", "--runtime", "docker", "--repository", options.repository, "--json")
    assert f"DOCKER_HOST={address}" in completed.stdout
    assert "docker.remote_engine" in {finding["code"] for finding in json.loads(completed.stdout)["findings"]}
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with raises(ServerError, "docker.unreachable"):
        engine_has_gpu()


def test_tokens_come_from_the_settings_when_the_environment_has_none(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITONKIT_ADMIN_TOKEN", raising=False)
    monkeypatch.setenv("TRITONKIT_TOKEN", "of-the-environment")
    env_file = options.repository.parent / ".env"
    env_file.write_text("TRITONKIT_ADMIN_TOKEN=of-the-file # keep\nTRITONKIT_TOKEN=of-the-file\n")
    assert load_server_tokens(options.repository) == RequestTokens(admin="of-the-file", use="of-the-environment")
    env_file.write_text("TRITONKIT_ADMIN_TOKEN='two words'\n")
    with raises(TokenError, "server.token") as caught:
        load_server_tokens(options.repository)
    assert "TRITONKIT_ADMIN_TOKEN of .env" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("2gb # enough", "2gb"), ("'2gb' # enough", "2gb"), ('"a #b"', "a #b"), ("a#b", "a#b"), (" # none", None)],
)
def test_setting_ends_where_its_comment_begins(options: Options, line: str, expected: str | None) -> None:
    (options.repository.parent / ".env").write_text(f"A_SETTING={line}\n")
    assert setting("A_SETTING", options.repository) == expected


def test_container_is_not_taken_for_ended_when_no_engine_answers(
    options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'none.sock'}")
    started = Server(options=options, tokens=TOKENS, container="0123")
    with raises(ServerError, "docker.unreachable"):
        runtime_of(started).is_alive(started)


def test_shared_memory_and_network_come_from_the_settings(options: Options) -> None:
    (options.repository.parent / ".env").write_text("# more\nSHM_SIZE=2gb\n")
    assert container_settings(options, TOKENS, network=None)["shm_size"] == "2gb"


def test_pull_reports_how_much_has_arrived() -> None:
    mib = 2**20
    answers: list[dict[str, Any]] = [
        {"status": "Pulling from x", "id": "1"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 5 * mib, "total": 20 * mib}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 6 * mib, "total": 20 * mib}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 9 * mib, "total": 10 * mib}},
        {"status": "Download complete", "id": "b", "progressDetail": {}},
    ]
    assert list(pull_progress(answers)) == ["0 of 0 MiB", "15 of 30 MiB"]


def test_pull_fails_with_the_engine_s_reason() -> None:
    with raises(ServerError, "docker.failed_step") as caught:
        list(pull_progress([{"error": "manifest unknown"}]))
    assert str(caught.value) == "manifest unknown"


def test_build_reports_its_steps_and_why_it_failed() -> None:
    answers = [{"stream": "Step 1/2 : FROM debian\n"}, {"stream": "No package\n"}, {"error": "returned a code: 100"}]
    steps = build_progress(answers)
    assert next(steps) == "Step 1/2 : FROM debian"
    with raises(ServerError, "docker.failed_step") as caught:
        next(steps)
    assert str(caught.value) == "No package returned a code: 100"


def test_engine_s_refusal_says_what_was_asked_and_what_to_do() -> None:
    refused = docker.errors.NotFound("404", explanation="no such image")
    with raises(ServerError, "docker.refused") as caught, translate_docker_errors(docker, "pull x", "look"):
        raise refused
    for part in ("pull x", "no such image", "look"):
        assert part in str(caught.value)


class OfOneImage:
    """An engine that has one image, and builds others of it."""

    def __init__(self, image: str, failing: str = "") -> None:
        self.images = self.api = self
        self.built: dict[str, Any] = {}
        self._image, self._failing = image, failing

    def get(self, image: str) -> None:
        if image != self._image:
            raise docker.errors.ImageNotFound(f"no {image}")

    def build(self, **order: Any) -> list[dict[str, Any]]:
        self.built = order
        return [{"stream": "Step 1/1 : FROM x"}, *([{"error": self._failing}] if self._failing else [])]


def triton_images(engine: OfOneImage) -> TritonImages:
    return TritonImages((docker, engine), host_network=False, report=lambda step: None)


def test_image_is_nvidia_s_when_there_is_a_gpu(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_IMAGE", "nvidia:26.06-py3")
    monkeypatch.setenv("TRITON_CPU_IMAGE", "cpu:1")
    assert (
        triton_images(OfOneImage("nvidia:26.06-py3-pillow")).prepare(options, has_gpu=True) == "nvidia:26.06-py3-pillow"
    )
    assert triton_images(OfOneImage("cpu:1")).prepare(options, has_gpu=False) == "cpu:1"
    option = options.model_copy(update={"image": "mine:2"})
    assert triton_images(OfOneImage("mine:2")).prepare(option, has_gpu=True) == "mine:2"


def test_image_for_encoded_pictures_is_built_of_nvidia_s(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_IMAGE", "nvidia:26.06-py3")
    engine = OfOneImage("nvidia:26.06-py3")
    assert triton_images(engine).prepare(options, has_gpu=True) == "nvidia:26.06-py3-pillow"
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["triton"]
    assert engine.built["dockerfile"] == service["build"]["dockerfile"]
    assert engine.built["buildargs"].items() >= {"TRITON_IMAGE": "nvidia:26.06-py3"}.items()
    assert engine.built["tag"] == "nvidia:26.06-py3-pillow"
    with raises(ServerError, "docker.failed_step") as caught:
        triton_images(OfOneImage("nvidia:26.06-py3", failing="no index")).prepare(options, has_gpu=True)
    for part in ("no index", "--image nvidia:26.06-py3"):
        assert part in str(caught.value)


def test_image_is_nvidia_s_itself_when_it_is_named_by_its_digest(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_IMAGE", "nvidia@sha256:0123")
    steps: list[str] = []
    images = TritonImages((docker, OfOneImage("nvidia@sha256:0123")), host_network=False, report=steps.append)
    assert images.prepare(options, has_gpu=True) == "nvidia@sha256:0123"
    (step,) = steps
    assert "nvidia@sha256:0123" in step
    assert "Pillow" in step
