"""Who may ask a real Triton for what: tokens, TLS, and what leaves the loopback address."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from socket import AF_INET
from typing import Any

import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from server.options import RuntimeName, triton_arguments
from server.process import Options, Server, running_servers
from server.security import RequestTokens, Security
from tests.certificates import make_authority, make_certificate, openssl
from tests.fixture_types import Command, Ports
from tests.serving import options_for, serving
from tritonkit.triton.connection import GRPC_TOKEN_HEADER, TOKEN_HEADER

ADMIN, USE = "the-admin-s-token", "the-user-s-token"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's and a client's certificate, and some that are of no use."""
    folder = tmp_path_factory.mktemp("pki")
    for name, days in (("ca", 2), ("stranger", 2), ("old-ca", -1)):
        make_authority(folder, name, days)
    for name, days in (("server", 2), ("client", 2), ("old", -1)):
        make_certificate(folder, name, "IP:127.0.0.1, DNS:localhost", days=days)
    openssl("ec", "-aes128", "-passout", "pass:secret", "-in", folder / "server.key", "-out", folder / "locked.key")
    for name, kind in (("short", ("rsa:512",)), ("koblitz", ("ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"))):
        files = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
        openssl("req", "-x509", "-newkey", *kind, "-nodes", *files, "-days", 2, "-subj", f"/CN={name}")
    (folder / "junk.pem").write_text("no certificate")
    return folder


@pytest.fixture(scope="module")
def repository(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded") / "repository"
    shutil.copytree(exported_once / "pets", folder / "pets")
    return folder


@pytest.fixture(scope="module")
def guarded(repository: Path, pki: Path) -> Iterator[Server]:
    """A server on every address, with mutual TLS and both tokens."""
    security = Security(
        tls_certificate=pki / "server.pem", tls_key=pki / "server.key", tls_ca=pki / "ca.pem", expose=True
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITONKIT_ADMIN_TOKEN", ADMIN)
        environment.setenv("TRITONKIT_TOKEN", USE)
        # The address is the point of the tests.
        with serving(options_for(repository, host="0.0.0.0", security=security)) as server:
            yield server


def call_grpc(
    server: Server, method: str, token: str | None = None, *arguments: str, files: Mapping[str, Path] | None = None
) -> str:
    """What one call comes to: "done", or the error."""
    tls = {name: str(path) for name, path in (files or {}).items()}
    client = tritonclient.grpc.InferenceServerClient(server.options.grpc_url, ssl=bool(tls), **tls)
    headers = {GRPC_TOKEN_HEADER: token} if token else {}
    try:
        getattr(client, method)(*arguments, headers=headers, client_timeout=10)
    except InferenceServerException as error:
        return str(error.message())
    finally:
        client.close()
    return "done"


def http_status(server: Server, path: str, token: str | None = None, body: bytes | None = b"{}") -> int:
    """The HTTP status of one call."""
    headers = {TOKEN_HEADER: token} if token else {}
    request = urllib.request.Request(f"{server.options.http_url}/v2/{path}".rstrip("/"), body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def mutual(pki: Path) -> dict[str, Path]:
    return {
        "root_certificates": pki / "ca.pem",
        "certificate_chain": pki / "client.pem",
        "private_key": pki / "client.key",
    }


ADMIN_CALLS = {
    "get_model_repository_index": (),
    "load_model": ("pets",),
    "unload_model": ("nothing",),
    "get_trace_settings": (),
    "get_log_settings": (),
    "get_system_shared_memory_status": (),
    "get_cuda_shared_memory_status": (),
}
USE_CALLS = {
    "get_server_metadata": (),
    "get_model_metadata": ("pets",),
    "get_model_config": ("pets",),
    "get_inference_statistics": (),
}
ADMIN_PATHS = (
    "repository/index",
    "repository/models/pets/load",
    "repository/models/nothing/unload",
    "logging",
    "trace/setting",
)
MEMORY_PATHS = ("systemsharedmemory/status", "cudasharedmemory/status")


@pytest.mark.parametrize(
    ("calls", "valid_token", "other_token"), [(ADMIN_CALLS, ADMIN, USE), (USE_CALLS, USE, ADMIN)], ids=["admin", "use"]
)
def test_grpc_is_closed_without_the_token_and_open_with_it(
    guarded: Server, pki: Path, calls: dict[str, tuple[str, ...]], valid_token: str, other_token: str
) -> None:
    for method, arguments in calls.items():
        for token in (None, other_token, valid_token[:-1], valid_token + "x"):
            assert "is restricted" in call_grpc(guarded, method, token, *arguments, files=mutual(pki)), method
        assert call_grpc(guarded, method, valid_token, *arguments, files=mutual(pki)) == "done", method


def test_http_is_closed_without_the_token_and_open_with_it(guarded: Server) -> None:
    for path in ADMIN_PATHS:
        body = None if path in ("logging", "trace/setting") else b"{}"
        assert [http_status(guarded, path, token, body) for token in (None, USE)] == [403, 403], path
        assert http_status(guarded, path, ADMIN, body) == 200, path
    for path in MEMORY_PATHS:
        assert http_status(guarded, path, USE, None) == 403, path
    assert http_status(guarded, "models/pets/infer") == 403
    assert http_status(guarded, "models/pets/infer", USE) in (400, 500), "an empty request, but one that is looked at"
    for path in ("models/pets/config", "models/pets/stats", "models/pets", ""):
        assert http_status(guarded, path, None, None) == 403, path
        assert http_status(guarded, path, USE, None) == 200, path
    assert http_status(guarded, "health/ready", None, None) == 200


def test_client_certificate_is_required_when_an_authority_is_named(guarded: Server, pki: Path) -> None:
    assert call_grpc(guarded, "is_server_ready", files=mutual(pki)) == "done"
    wrong_files: list[dict[str, Path]] = [
        {},
        {"root_certificates": pki / "ca.pem"},
        {**mutual(pki), "certificate_chain": pki / "stranger.pem", "private_key": pki / "stranger.key"},
        {**mutual(pki), "root_certificates": pki / "stranger.pem"},
    ]
    for files in wrong_files:
        assert "failed to connect" in call_grpc(guarded, "is_server_ready", files=files), files


def test_only_grpc_leaves_the_loopback_address_when_exposed(guarded: Server) -> None:
    listening = {
        connection.laddr[1]: connection.laddr[0].removeprefix("::ffff:")
        for process in psutil.Process(guarded.pid).children()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    options = guarded.options
    assert listening[options.http_port] == listening[options.metrics_port] == "127.0.0.1"
    assert listening[options.grpc_port] in ("0.0.0.0", "::")


def test_tokens_are_kept_where_only_their_owner_reads_them(guarded: Server, command: Command) -> None:
    state = guarded.folder / "server.json"
    assert state.stat().st_mode & 0o777 == 0o600
    assert guarded.folder.stat().st_mode & 0o777 == 0o700
    assert ADMIN in state.read_text()
    output = command("server", "status", "--json").stdout + command("server", "logs", "-n", 1000).stdout + repr(guarded)
    assert ADMIN not in output
    assert USE not in output


def test_server_elsewhere_is_asked_with_certificates_and_tokens(
    guarded: Server, pki: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"grpcs://{guarded.options.grpc_url}"
    files = ("--tls-ca", pki / "ca.pem", "--tls-cert", pki / "client.pem", "--tls-key", pki / "client.key")
    status = command("server", "status", "--url", url, *files, "--json")
    assert json.loads(status.stdout)[0]["models"][0]["state"] == "READY", status.stderr
    assert "pets: version 1, as before" in command("server", "reload", "pets", "--url", url, *files).stdout
    outside = command("server", "reload", "--url", url, "--tls-ca", pki / "stranger.pem", *files[2:])
    assert outside.exit_code == 3
    assert "pass the certificate of its authority with --tls-ca" in outside.stderr
    plain = command("server", "reload", "--url", guarded.options.grpc_url)
    assert plain.exit_code == 3
    assert "it speaks TLS; use grpcs://" in plain.stderr
    monkeypatch.setenv("TRITONKIT_ADMIN_TOKEN", "a-guess")
    guess = command("server", "reload", "--url", url, *files)
    assert guess.exit_code == 2
    assert "$TRITONKIT_ADMIN_TOKEN" in guess.stderr
    for variable in ("TRITONKIT_TOKEN", "TRITONKIT_ADMIN_TOKEN"):
        monkeypatch.delenv(variable)
    assert "does not list its models without a token" in command("server", "reload", "--url", url, *files).stderr


def test_status_shows_where_other_machines_reach_a_server(guarded: Server, command: Command) -> None:
    port = guarded.options.grpc_port
    status = command("server", "status").stdout
    assert f"gRPC 0.0.0.0:{port} with TLS (gRPC exposed to other machines), " in status


@pytest.mark.usefixtures("own_state")
def test_admin_api_asks_for_a_token_that_nobody_chose_when_none_is_set(
    command: Command, repository: Path, free_ports: Ports
) -> None:
    up = command("server", "up", "--repository", repository, "--json", *free_ports())
    assert up.exit_code == 0, up.stderr
    try:
        document: dict[str, Any] = json.loads(up.stdout)
        server = Server.model_validate_json(Path(document["state"]).read_bytes())
        assert len(server.tokens.admin) >= 32
        assert "tokens" not in document
        assert http_status(server, "repository/index") == 403
        assert http_status(server, "repository/index", server.tokens.admin) == 200
        assert "is restricted" in call_grpc(server, "get_model_repository_index")
        assert call_grpc(server, "get_model_repository_index", server.tokens.admin) == "done"
        assert call_grpc(server, "get_inference_statistics") == "done", "use is open on the loopback address"
        assert call_grpc(server, "get_system_shared_memory_status") == "done", "for clients of this machine"
        for path in MEMORY_PATHS:
            assert http_status(server, path, None, None) == 403, "which a page in a browser can ask"
            assert http_status(server, path, server.tokens.admin, None) == 200
    finally:
        assert command("server", "down").exit_code == 0


def test_shared_memory_is_for_users_of_this_machine_and_over_grpc_alone() -> None:
    def rules(runtime: RuntimeName) -> dict[str, str]:
        options = Options(repository=Path("models"), runtime=runtime)
        arguments = triton_arguments(options, RequestTokens(admin=ADMIN, use=USE), "models")
        rules_text = [argument.split("=", 2) for argument in arguments if "shared-memory" in argument]
        return {option: token for option, _, token in rules_text}

    http, grpc = "--http-restricted-api", "--grpc-restricted-protocol"
    assert rules("pip") == {http: ADMIN, grpc: USE}
    assert rules("docker") == {http: ADMIN, grpc: ADMIN}


READABLE = "the token would be sent without TLS"


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize("url", ["192.0.2.1:8001", "grpc://192.0.2.1:8001", "http://192.0.2.1:8000"])
@pytest.mark.parametrize("verb", [("reload",), ("load", "pets"), ("unload", "pets")])
def test_admin_token_is_not_sent_when_others_could_read_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...], url: str
) -> None:
    monkeypatch.setenv("TRITONKIT_ADMIN_TOKEN", ADMIN)
    refused = command("server", *verb, "--url", url)
    assert (refused.exit_code, READABLE in refused.stderr) == (2, True), refused.output
    assert ADMIN not in refused.output


EXPOSED = ("--host", "0.0.0.0", "--expose")
PAIR = ("--tls-cert", "server.pem", "--tls-key", "server.key")


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize(
    ("options", "code", "datum"),
    [
        (("--host", "0.0.0.0"), "option.needs_expose", "0.0.0.0"),
        (("--host", "0.0.0.0", "--insecure"), "option.needs_expose", "0.0.0.0"),
        (("--host", "0.0.0.0", *PAIR), "option.needs_expose", "0.0.0.0"),
        (EXPOSED, "option.expose_without_tls", "--tls-cert"),
        (("--insecure",), "option.insecure_alone", "--expose"),
        (("--expose",), "option.expose_loopback", "--host"),
        (("--host", "example"), "option.host", "example"),
        (("--host", "::1"), "option.host", "::1"),
        (("--host", "::1", "--http-port", "0"), "option.invalid", "--http-port 0: "),
        ((*EXPOSED, "--tls-cert", "server.pem"), "option.tls_pair", "--tls-key"),
        (("--tls-ca", "ca.pem"), "option.tls_ca_alone", "--tls-cert"),
        (("--tls-cert", "none.pem", "--tls-key", "server.key"), "tls.unreadable", "none.pem"),
        (("--tls-cert", "junk.pem", "--tls-key", "server.key"), "tls.not_pem", "junk.pem"),
        (("--tls-cert", "server.pem", "--tls-key", "junk.pem"), "tls.not_pem", "junk.pem"),
        (("--tls-cert", "server.pem", "--tls-key", "client.key"), "tls.wrong_key", "client.key"),
        (("--tls-cert", "server.pem", "--tls-key", "short.key"), "tls.wrong_key", "short.key"),
        (("--tls-cert", "short.pem", "--tls-key", "short.key"), "tls.unusable", "ee key too small"),
        (("--tls-cert", "koblitz.pem", "--tls-key", "koblitz.key"), "tls.unusable", "(curve secp256k1)"),
        (("--tls-cert", "server.key", "--tls-key", "server.pem"), "tls.swapped", "--tls-cert "),
        (("--tls-cert", "server.pem", "--tls-key", "locked.key"), "tls.encrypted_key", "--tls-key"),
        (("--tls-cert", "old.pem", "--tls-key", "old.key"), "tls.invalid", "old.pem: certificate has expired"),
        ((*PAIR, "--tls-ca", "junk.pem"), "tls.ca_not_pem", "junk.pem"),
        ((*PAIR, "--tls-ca", "client.pem"), "tls.not_a_ca", "client.pem"),
        ((*PAIR, "--tls-ca", "old-ca.pem"), "tls.expired_ca", "old-ca.pem"),
    ],
)
def test_server_is_not_started_when_its_address_or_certificates_are_wrong(
    command: Command, repository: Path, pki: Path, options: tuple[str, ...], code: str, datum: str
) -> None:
    arguments = [pki / option if option.endswith((".pem", ".key")) else option for option in options]
    up = command("server", "up", "--repository", repository, *arguments, "--json")
    assert up.exit_code == 2, up.stderr
    assert json.loads(up.stdout)["error"]["code"] == code, "before problems of the machine"
    assert datum in up.stderr
    assert up.stderr.startswith("error: ")
    assert up.stderr.count("error: ") == 1
    assert "Traceback" not in up.stderr


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize("token", ["with space", "comma,", "equals=", "ünïcode"])
def test_token_that_triton_could_not_take_is_refused(
    command: Command, repository: Path, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITONKIT_TOKEN", token)
    up = command("server", "up", "--repository", repository)
    assert up.exit_code == 2
    assert "$TRITONKIT_TOKEN: a token holds letters, digits" in up.stderr
    monkeypatch.delenv("TRITONKIT_TOKEN")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"TRITONKIT_TOKEN='{token}'\n")
    for runtime in ("pip", "docker"):
        up = command("server", "up", "--repository", repository, "--runtime", runtime)
        assert (up.exit_code, "TRITONKIT_TOKEN of .env: a token holds" in up.stderr) == (2, True), up.stderr


def own_address() -> str:
    """An address of this machine that others may reach."""
    found = [
        interface.address
        for all_of_it in psutil.net_if_addrs().values()
        for interface in all_of_it
        if interface.family == AF_INET
    ]
    return next((address for address in found if not address.startswith("127.")), "0.0.0.0")


@pytest.mark.usefixtures("own_state")
def test_server_says_what_is_open_to_whom_when_it_is_exposed_without_tls(
    command: Command, repository: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, ports = own_address(), free_ports()
    http, grpc = ports[1], ports[3]
    up = command("server", "up", "--repository", repository, "--host", host, "--expose", "--insecure", *ports)
    try:
        assert up.exit_code == 0, up.stderr
        assert f"exposed without encryption: gRPC {host}:" in up.stderr
        assert f"ready: gRPC {host}:{grpc}, http://{host}:{http}, metrics http://{host}:" in up.stdout
        assert f"gRPC {host}:{grpc} (gRPC and HTTP exposed to other machines), " in command("server", "status").stdout
        assert command("server", "status").exit_code == 0, "what is sent to this machine does not leave it"
        assert command("server", "reload").exit_code == 0
        url = f"{host}:{running_servers()[0].options.grpc_port}"
        assert command("server", "reload", "--url", url).exit_code == 2, "the token is missing"
        monkeypatch.setenv("TRITONKIT_ADMIN_TOKEN", running_servers()[0].tokens.admin)
        for verb in ("status", "reload"):
            refused = command("server", verb, "--url", url)
            assert (refused.exit_code, READABLE in refused.stderr) == (2, True), refused.output
    finally:
        command("server", "down")
