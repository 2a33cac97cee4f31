"""Connections to a real Triton: retries, TLS, tokens, and a clear error for each fault."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from server.process import Server, stop
from server.security import Security
from tests.certificates import make_authority, make_certificate
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.serving import options_for, serving
from tritonkit.errors import CertificateError, InputError, NotReadyError, TokenError, TritonkitError, UnreachableError
from tritonkit.images.preprocess import ImageArray
from tritonkit.system.commands import free_ports
from tritonkit.triton.client import Statistics, TritonClient
from tritonkit.triton.connection import ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE, Connection
from tritonkit.triton.runner import TritonRunner

TOKEN = "the-user-s-token"
IMAGES: ImageArray = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities, and certificates: of the server, of a client, and invalid ones."""
    folder = tmp_path_factory.mktemp("pki")
    for name in ("ca", "other"):
        make_authority(folder, name)
    for name, names, authority, days in (
        ("server", "IP:127.0.0.1", "ca", 2),
        ("elsewhere", "DNS:triton.example", "ca", 2),
        ("old", "IP:127.0.0.1", "ca", -1),
        ("client", "DNS:client", "ca", 2),
        ("stranger", "DNS:client", "other", 2),
    ):
        make_certificate(folder, name, names, authority, days)
    return folder


@pytest.fixture(scope="module")
def pets_alone(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with no other model than `pets`."""
    repository = tmp_path_factory.mktemp("connected") / "repository"
    shutil.copytree(exported_once / "pets", repository / "pets")
    return repository


@pytest.fixture(scope="module")
def guarded(pets_alone: Path, pki: Path) -> Iterator[Server]:
    """A server with mutual TLS that requires a token."""
    security = Security(tls_certificate=pki / "server.pem", tls_key=pki / "server.key", tls_ca=pki / "ca.pem")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(TOKEN_VARIABLE, TOKEN)
            server = stack.enter_context(serving(options_for(pets_alone, security=security)))
        yield server


@pytest.fixture(scope="module")
def plain(pets_alone: Path) -> Iterator[Server]:
    with serving(options_for(pets_alone)) as server:
        yield server


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


def probabilities(connection: Connection) -> ImageArray:
    with TritonRunner(TritonClient(connection), "pets") as runner:
        return runner.infer(IMAGES)["probabilities"]


def tls(url: str, pki: Path, ca: str = "ca", certificate: str | None = None) -> Connection:
    files = (
        {} if certificate is None else {"tls_cert": pki / f"{certificate}.pem", "tls_key": pki / f"{certificate}.key"}
    )
    return Connection(url=f"grpcs://{url}", tls_ca=pki / f"{ca}.pem", deadline_s=10, **files)


@contextmanager
def tls_front(pki: Path, name: str, behind: int | None = None) -> Iterator[int]:
    """Yield the port of a TLS proxy that has a certificate and forwards to the port `behind`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    context.set_alpn_protocols(["h2", "http/1.1"])

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while heard := source.recv(65536):
                sink.sendall(heard)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def serve(listening: socket.socket, stack: ExitStack) -> None:
        while True:
            try:
                connection = stack.enter_context(context.wrap_socket(listening.accept()[0], server_side=True))
            except ssl.SSLError:
                continue  # a client that does not trust us
            except OSError:
                return
            if behind is not None:
                inner = stack.enter_context(socket.create_connection(("127.0.0.1", behind)))
                for sockets in ((connection, inner), (inner, connection)):
                    threading.Thread(target=pump, args=sockets, daemon=True).start()

    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=serve, args=(listening, stack), daemon=True).start()
        yield int(listening.getsockname()[1])


@pytest.mark.usefixtures("token")
def test_model_answers_when_certificates_and_token_are_right(guarded: Server, plain: Server, pki: Path) -> None:
    answered = probabilities(tls(guarded.options.grpc_url, pki, certificate="client"))
    assert np.array_equal(answered, probabilities(Connection(url=plain.options.grpc_url)))


def test_model_answers_when_a_proxy_speaks_https(plain: Server, pki: Path) -> None:
    with tls_front(pki, "server", behind=plain.options.http_port) as port:
        answered = probabilities(Connection(url=f"https://127.0.0.1:{port}", tls_ca=pki / "ca.pem"))
        with pytest.raises(CertificateError, match=r"other\.pem"):
            probabilities(Connection(url=f"https://127.0.0.1:{port}", tls_ca=pki / "other.pem"))
    assert np.array_equal(answered, probabilities(Connection(url=plain.options.http_url)))


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("ca", "certificate", "expected_text"),
    [
        ("ca", None, "--tls-cert and --tls-key"),
        ("ca", "stranger", "stranger.pem"),
        ("other", "client", "trusted"),
    ],
)
def test_certificate_is_named_when_the_other_side_refuses_it(
    guarded: Server, pki: Path, ca: str, certificate: str | None, expected_text: str
) -> None:
    with pytest.raises(CertificateError) as caught:
        probabilities(tls(guarded.options.grpc_url, pki, ca, certificate))
    assert f"grpcs://{guarded.options.grpc_url}: " in str(caught.value)
    assert expected_text in str(caught.value)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
@pytest.mark.parametrize(
    ("name", "expected_text"),
    [("old", "expired"), ("elsewhere", "127.0.0.1$|127.0.0.1[^:]")],
)
def test_certificate_is_refused_when_it_is_out_of_date_or_of_another_host(
    pki: Path, scheme: str, name: str, expected_text: str
) -> None:
    with tls_front(pki, name) as port, pytest.raises(CertificateError, match=expected_text):
        probabilities(Connection(url=f"{scheme}://127.0.0.1:{port}", tls_ca=pki / "ca.pem", deadline_s=10))


def test_error_says_whether_the_server_needs_tls(guarded: Server, plain: Server, pki: Path) -> None:
    with pytest.raises(CertificateError, match=r"grpcs://127\.0\.0\.1:\d+, with --tls-ca"):
        probabilities(Connection(url=guarded.options.grpc_url))
    with pytest.raises(CertificateError) as caught:
        probabilities(tls(plain.options.grpc_url, pki))
    assert f"grpcs://{plain.options.grpc_url}: " in str(caught.value)
    assert "--tls-ca" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "expected_text"),
    [
        ({"tls_cert": "client.pem"}, "--tls-cert and --tls-key"),
        ({"tls_cert": "client.pem", "tls_key": "server.key"}, r"server\.key: .*client\.pem"),
        ({"tls_cert": "old.pem", "tls_key": "old.key"}, r"--tls-cert .*old\.pem: .*expired"),
        ({"tls_cert": "client.key", "tls_key": "client.pem"}, "--tls-key a certificate"),
        ({"tls_ca": "absent.pem"}, r"--tls-ca .*absent\.pem: "),
        ({"tls_ca": "names.cnf"}, r"names\.cnf: .* PEM"),
    ],
)
def test_invalid_files_are_refused_before_any_request(pki: Path, files: dict[str, str], expected_text: str) -> None:
    with pytest.raises(InputError, match=expected_text):
        TritonClient(Connection(url="grpcs://127.0.0.1:9", **{option: pki / name for option, name in files.items()}))


def test_error_says_whether_the_token_is_missing_or_wrong(
    command: Command, guarded: Server, pki: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("--tls-ca", pki / "ca.pem", "--tls-cert", pki / "client.pem", "--tls-key", pki / "client.key")
    ask = ("client", "infer", photos / "cat.jpg", "--model", "pets", "--url", guarded.options.grpc_url, *files)
    refused = command(*ask, "--json")
    assert refused.exit_code == 2
    assert error_codes(refused) == {"server.token"}
    assert " (This protocol is restricted, expecting header" in refused.stderr
    assert "$TRITONKIT_TOKEN" in refused.stderr
    assert "$TRITONKIT_TOKEN (" not in refused.stderr
    monkeypatch.setenv(TOKEN_VARIABLE, "another")
    assert "$TRITONKIT_TOKEN (This protocol is restricted" in command(*ask).stderr
    monkeypatch.setenv("TRITONKIT_ADMIN_TOKEN", "one-that-is-not-shown-here")
    assert "$TRITONKIT_TOKEN (" in command(*ask).stderr
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert "$TRITONKIT_TOKEN (" not in command(*ask).stderr
    monkeypatch.setenv(TOKEN_VARIABLE, "no\ntoken")
    assert "error: $TRITONKIT_TOKEN: " in command(*ask).stderr
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert command(*ask).exit_code == 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_models_that_are_loaded_are_listed_when_the_repository_is_closed(
    plain: Server, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = plain.options.grpc_url if protocol == "grpc" else plain.options.http_url
    for admin in ("", "wrong", plain.tokens.admin):
        monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, admin)
        with closing(TritonClient(url)) as server:
            assert [(row.name, row.version, row.state) for row in server.models()] == [("pets", "1", "READY")]


def test_nothing_waits_when_no_server_was_there_at_first(command: Command, photos: Path) -> None:
    url = f"127.0.0.1:{free_ports()[0]}"
    ask = ("client", "infer", photos / "cat.jpg", "--model", "pets", "--url", url, "--patience", 60)
    refused = command(*ask, "--json")
    assert refused.exit_code == 3
    assert error_codes(refused) == {"server.unreachable"}
    assert url in refused.stderr
    waited = command(*ask, "--wait", 0.2)
    assert waited.exit_code == 3
    assert waited.stderr.count("retrying: ") == 1
    assert "0.2 s (--wait)" in waited.stderr


def kill(server: Server) -> None:
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):  # a stub process ends by itself without its server
            member.kill()
    psutil.wait_procs(family)
    stop(server)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_request_is_lost_when_the_server_comes_late_and_is_killed_in_between(
    pets_alone: Path, plain: Server, protocol: str
) -> None:
    chosen = options_for(pets_alone)
    url = chosen.grpc_url if protocol == "grpc" else chosen.http_url
    expected = probabilities(Connection(url=plain.options.grpc_url))
    failures: list[TritonkitError] = []
    server = TritonClient(Connection(url=url, wait_s=60, patience_s=60), failures.append)
    enough = threading.Event()

    def ask(runner: TritonRunner) -> int:
        answered_requests = 0
        while not enough.is_set():
            assert np.allclose(runner.infer(IMAGES)["probabilities"], expected, atol=1e-6)
            answered_requests += 1
        return answered_requests

    with ExitStack() as second, closing(server), ThreadPoolExecutor(4) as threads:
        opening = threads.submit(TritonRunner, server, "pets")
        while not failures:
            time.sleep(0.05)
        with serving(chosen) as first:
            asking = [threads.submit(ask, opening.result(60)) for _ in range(3)]
            time.sleep(0.3)
            failures.clear()
            kill(first)
        while not failures:
            time.sleep(0.05)
        second.enter_context(serving(chosen))
        deadline = time.monotonic() + 30
        while Statistics.total(server.statistics("pets").values()).requests < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        enough.set()
        assert all(future.result(60) > 1 for future in asking)
    assert {type(failure) for failure in failures} <= {UnreachableError, NotReadyError}


def test_repeating_ends_when_the_connection_is_closed() -> None:
    server = TritonClient(Connection(url=f"127.0.0.1:{free_ports()[0]}", wait_s=60, patience_s=60))
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(TritonRunner, server, "pets")
        time.sleep(0.2)
        server.close()
        assert isinstance(opening.exception(10), UnreachableError)


def test_wrong_token_is_not_asked_again(guarded: Server, pki: Path) -> None:
    failures: list[TritonkitError] = []
    patient = tls(guarded.options.grpc_url, pki, certificate="client").model_copy(
        update={"wait_s": 60, "patience_s": 60}
    )
    with pytest.raises(TokenError):
        TritonRunner(TritonClient(patient, failures.append), "pets")
    assert failures == []


def test_token_is_not_sent_when_others_could_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with closing(TritonClient("192.0.2.1:8001")) as server, pytest.raises(TokenError, match="TLS") as raised:
        server.release()
    assert TOKEN not in str(raised.value)
