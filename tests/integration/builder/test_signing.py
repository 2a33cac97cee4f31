"""`builder sign` and `--require-signed`: the same bytes, proven, with the configuration they were signed with."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from builder.packages import write_package
from builder.packages.signing import PASSWORD_VARIABLE, sign_models, sign_package
from builder.repository.promote import promote
from server.process import running_servers, start
from server.supervisor import REFUSED_PREFIX
from tests.errors import error_codes, raises
from tests.fixture_types import Command, Ports
from tests.packages import contents, flip, install, rehash, with_code, with_labels, write
from tests.serving import options_for
from tests.signatures import sign_anyway, write_keys
from tritonkit.errors import ArtifactError, CheckFailedError, InputError
from tritonkit.repository.manifest import FileEntry, Manifest
from tritonkit.repository.signing.check import check_signed
from tritonkit.repository.verdict import Verdict
from tritonkit.system.files import file_sha256
from tritonkit.triton.connection import ADMIN_TOKEN_VARIABLE
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text, read_config

PASSWORD = b"correct horse"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of keys: `model`, another one, and one with a password."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("model", "other"):
        write_keys(folder, name)
    write_keys(folder, "locked", serialization.BestAvailableEncryption(PASSWORD))
    return folder


@pytest.fixture(scope="module")
def signed_once(exported_once: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed repository, to be copied from."""
    repository = Path(shutil.copytree(exported_once, tmp_path_factory.mktemp("signed") / "repository"))
    sign_models(repository, (), keys / "model.pem")
    return repository


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    """A signed repository of one's own."""
    return Path(shutil.copytree(signed_once, tmp_path / "signed" / "repository"))


@pytest.fixture(scope="module")
def package(signed_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the signed model."""
    return write_package(signed_once / "pets", 1, tmp_path_factory.mktemp("package"))


def change(path: Path) -> None:
    """Flip one bit of a file."""
    path.write_bytes(flip(path.read_bytes()))


def change_signature(path: Path) -> None:
    """Flip one bit of the signature itself, not of what is signed."""
    document = json.loads(path.read_text())
    entry = document["dsseEnvelope"]["signatures"][0]
    entry["sig"] = entry["sig"][:20] + ("A" if entry["sig"][20] != "A" else "B") + entry["sig"][21:]
    path.write_text(json.dumps(document))


def add_environment(model: Path) -> None:
    """Make Triton's Python backend run a model in another environment."""
    config = read_config(model)
    config.parameters["EXECUTION_ENV_PATH"].string_value = "/tmp/env"
    (model / CONFIG_FILE).write_text(config_to_text(config))


def republish(version: Path, **verdict_fields: object) -> None:
    """Renew the manifest, after a change of the verdict, as somebody without the key can."""
    verdict, manifest = Verdict.read(version), Manifest.read(version)
    assert verdict is not None
    assert manifest is not None
    verdict.model_copy(update=verdict_fields).write(version)
    path = version / Verdict.FILE
    entry = FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
    manifest.model_copy(update={"files": {**manifest.files, Verdict.FILE: entry}}).write(version)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "artifact": (lambda root: change(root / "pets/1/model.onnx"), "signature.changed_file"),
    "verdict": (lambda root: change(root / "pets/1/verdict.json"), "signature.changed_file"),
    "verdict and manifest": (lambda root: republish(root / "pets/1", notes=("x",)), "signature.other_version"),
    "signature": (lambda root: change_signature(root / "pets/1/model.sig"), "signature.invalid"),
    "broken signature": (lambda root: (root / "pets/1/model.sig").write_text("{}"), "signature.invalid"),
    "no signature": (lambda root: (root / "pets/1/model.sig").unlink(), "signature.missing"),
    "code": (lambda root: change(root / "pets_decode/1/decoder.py"), "signature.changed_file"),
    "more code": (lambda root: (root / "pets_decode/1/PIL.py").write_text(""), "signature.changed_file"),
    "environment": (lambda root: add_environment(root / "pets_decode"), "signature.configuration"),
    "labels": (lambda root: (root / "pets/labels.txt").write_text("a\nb\nc\n"), "signature.configuration"),
    "other configuration": (
        lambda root: shutil.copytree(root / "pets_encoded/configs", root / "pets/configs"),
        "signature.configuration",
    ),
    "name": (lambda root: (root / "pets").rename(root / "dogs"), "signature.configuration"),
    "unsigned model": (
        lambda root: shutil.copytree(root / "pets", root / "new", ignore=shutil.ignore_patterns("*.sig")),
        "signature.missing",
    ),
    "hidden model": (
        lambda root: shutil.copytree(root / "pets_decode", root / ".d", ignore=shutil.ignore_patterns("*.sig")),
        "signature.missing",
    ),
    "module that wins over the version": (
        lambda root: (root / "pets_decode/1.py").write_text(""),
        "signature.changed_file",
    ),
    "module beside the version": (lambda root: (root / "pets_decode/numpy").mkdir(), "signature.changed_file"),
    "nested signature": (lambda root: (root / "pets/1/model.sig").write_text("[" * 100_000), "signature.invalid"),
    "long signature": (lambda root: (root / "pets/1/model.sig").write_text(" " * 2**23), "signature.invalid"),
    "version above int64": (
        lambda root: shutil.copytree(root / "pets_decode/1", root / f"pets_decode/{2**63}"),
        "signature.missing",
    ),
    "misread version": (
        lambda root: shutil.copytree(root / "pets_decode/1", root / "pets_decode/2_old"),
        "signature.missing",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_check_refuses_what_was_changed_after_it_was_signed(name: str, signed: Path, keys: Path) -> None:
    check_signed(signed, (), keys / "model.pub")
    apply, code = CHANGES[name]
    apply(signed)
    with raises(CheckFailedError, code):
        check_signed(signed, (), keys / "model.pub")


def edit_config(model: Path, edit: Callable[[Any], object]) -> None:
    """Change a configuration."""
    config = read_config(model)
    edit(config)
    (model / CONFIG_FILE).write_text(config_to_text(config))


def reverse_labels(root: Path) -> None:
    """Give the classes of `pets` other names, in all files outside the version folder."""
    for name, text in with_labels(lambda name: (root / name).read_text()).items():
        (root / name).write_text(text)


def change_preprocess(root: Path) -> None:
    """Let the decoder cut images otherwise."""
    path = root / "pets_decode/1/preprocess.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "crop_ratio": 0.5}))


UNPROVEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "labels": ("pets", reverse_labels),
    "main model as decoder": (
        "pets",
        lambda root: edit_config(
            root / "pets", lambda config: config.parameters["encoded_of"].__setattr__("string_value", "dogs")
        ),
    ),
    "step of the ensemble": (
        "pets_encoded",
        lambda root: edit_config(
            root / "pets_encoded",
            lambda config: config.ensemble_scheduling.step[1].__setattr__("model_version", 1),
        ),
    ),
    "second configuration of the ensemble": (
        "pets_encoded",
        lambda root: (root / "pets_encoded/configs/one_process.pbtxt").write_text('backend: "python"'),
    ),
    "other pixels": ("pets_decode", change_preprocess),
    "artifact in the decoder": (
        "pets_decode",
        lambda root: shutil.copy(root / "pets/1/model.onnx", root / "pets_decode/1/model.onnx"),
    ),
}


@pytest.mark.parametrize("name", UNPROVEN)
def test_what_no_verdict_is_about_is_refused_even_signed(name: str, signed: Path, keys: Path) -> None:
    model, apply = UNPROVEN[name]
    apply(signed)
    with raises(CheckFailedError, "signature.refused"):
        sign_models(signed, (), keys / "model.pem")
    sign_anyway(signed / model / "1", keys / "model.pem")
    with raises(CheckFailedError, "signature.unproven"):
        check_signed(signed, (), keys / "model.pub")


def test_signature_survives_fields_of_a_later_tritonkit_and_records(signed: Path, keys: Path) -> None:
    model = signed / "pets"
    document = json.loads((model / "model.json").read_text())
    del document["crop"], document["pipeline"]
    (model / "model.json").write_text(json.dumps(document))
    del document["lineage"]
    edit_config(model, lambda config: config.parameters["model.json"].__setattr__("string_value", json.dumps(document)))
    for record in ("tuning.json", "versions.json", "package.json"):
        (model / record).write_text("{}")
    check_signed(signed, (), keys / "model.pub")


def test_check_compares_the_name_of_every_loaded_version(
    signed: Path, package: Path, keys: Path, tmp_path: Path
) -> None:
    install(write(tmp_path / "p.zip", rehash({**contents(package), "pets/1/verdict.html": b"<p>newer</p>"})), signed)
    install(package, signed, name="dogs")
    edit_config(signed / "pets", lambda config: config.version_policy.all.SetInParent())
    sign_models(signed, (), keys / "model.pem")
    check_signed(signed, (), keys / "model.pub")
    shutil.rmtree(signed / "pets" / "1")
    shutil.copytree(signed / "dogs" / "1", signed / "pets" / "1")
    with raises(CheckFailedError, "signature.configuration", "the name dogs", "verdict is about model dogs"):
        check_signed(signed, ("pets",), keys / "model.pub")


def test_signed_install_repairs_what_versions_share(signed: Path, package: Path, keys: Path) -> None:
    reverse_labels(signed)
    repaired = install(package, signed, public_key=keys / "model.pub")
    assert (repaired.version, repaired.new) == (1, False)


def test_check_refuses_another_key_and_the_signature_of_another_version(
    signed: Path, keys: Path, package: Path, tmp_path: Path
) -> None:
    with raises(CheckFailedError, "signature.invalid"):
        check_signed(signed, (), keys / "other.pub")
    newer = write(tmp_path / "p.zip", rehash({**contents(package), "pets/1/verdict.html": b"<p>newer</p>"}))
    install(newer, signed)  # with the signature of the version before
    with raises(CheckFailedError, "signature.other_version", "version 2"):
        check_signed(signed, (), keys / "model.pub")
    again = Path(shutil.copytree(signed, tmp_path / "again" / "repository"))
    sign_models(again, ("pets",), keys / "model.pem")
    check_signed(again, (), keys / "model.pub")
    change(signed / "pets" / "2" / "golden.npz")  # now its files are not those of its manifest either
    with raises(CheckFailedError, "signature.changed_file", "golden.npz", "manifest.json", "verdict.html"):
        check_signed(signed, (), keys / "model.pub")


def test_check_refuses_a_signed_version_whose_verdict_did_not_pass(signed: Path, keys: Path) -> None:
    version = signed / "pets" / "1"
    republish(version, passed=False, forced=True)
    sign_anyway(version, keys / "model.pem")
    with raises(CheckFailedError, "signature.unproven"):
        check_signed(signed, (), keys / "model.pub")


def test_signatures_survive_promotion_and_an_install_under_another_number(
    signed: Path, keys: Path, package: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "p.zip", rehash({**contents(package), "pets/1/verdict.html": b"<p>newer</p>"}))
    sign_package(other, keys / "model.pem")
    installed = install(other, signed, public_key=keys / "model.pub")
    assert (installed.version, installed.signed) == (2, True)
    check_signed(signed, (), keys / "model.pub")
    promote(signed / "pets", 1)
    check_signed(signed, ("pets_encoded",), keys / "model.pub")


@pytest.mark.parametrize("refused", ["verdict.not_passed", "repository.changed_file", "package.foreign_code"])
def test_sign_refuses_what_is_not_proven_and_signs_nothing(refused: str, tiny_repository: Path, keys: Path) -> None:
    match refused:
        case "verdict.not_passed":
            republish(tiny_repository / "pets" / "1", passed=False, forced=True)
        case "repository.changed_file":
            artifact = tiny_repository / "pets" / "1" / "model.onnx"
            artifact.write_bytes(flip(artifact.read_bytes()))
        case _:
            code = tiny_repository / "pets_decode" / "1" / "decoder.py"
            code.write_text(code.read_text() + "\n# more\n")
    with raises(CheckFailedError, refused):
        sign_models(tiny_repository, (), keys / "model.pem")
    assert list(tiny_repository.rglob("*.sig")) == []


def test_install_refuses_an_unsigned_and_a_renamed_package(
    package: Path, exported_once: Path, keys: Path, tmp_path: Path, command: Command
) -> None:
    repository, unsigned = tmp_path / "repository", write_package(exported_once / "pets", 1, tmp_path)
    arguments = ("--repository", repository, "--require-signed", keys / "model.pub", "--json")
    refused = command("builder", "install", unsigned, *arguments)
    assert (refused.exit_code, error_codes(refused)) == (1, {"signature.missing"})
    with raises(InputError, "package.signed_name"):
        install(package, repository, name="dogs", public_key=keys / "model.pub")
    assert not repository.exists()
    accepted = command("builder", "install", package, *arguments)
    assert json.loads(accepted.stdout)["signed"]


def test_signed_code_of_another_tritonkit_is_installed_as_it_is(package: Path, keys: Path, tmp_path: Path) -> None:
    repository, root = tmp_path / "repository", tmp_path / "root"
    install(package, root)
    version = root / "pets_decode" / "1"
    (version / "decoder.py").write_text((version / "decoder.py").read_text() + "\n# of another version\n")
    manifest = Manifest.read(version)
    assert manifest is not None
    path = version / "decoder.py"
    entry = FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
    manifest.model_copy(update={"files": {**manifest.files, "decoder.py": entry}}).write(version)
    sign_anyway(version, keys / "model.pem")
    changed = write_package(root / "pets", 1, tmp_path)
    install(changed, repository, public_key=keys / "model.pub")
    assert (repository / "pets_decode" / "1" / "decoder.py").read_text().endswith("# of another version\n")
    check_signed(repository, (), keys / "model.pub")


def test_code_of_a_model_is_installed_only_signed(package: Path, keys: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(write(tmp_path / "p.zip", with_code(contents(package)))) as archive:
        archive.extractall(tmp_path / "root")
    version = tmp_path / "root" / "pets" / "1"
    sign_anyway(version, keys / "model.pem")
    coded = write_package(tmp_path / "root" / "pets", 1, tmp_path)
    with raises(ArtifactError, "package.foreign_code"):
        install(coded, tmp_path / "repository")
    installed = install(coded, tmp_path / "repository", public_key=keys / "model.pub")
    assert (installed.folder / "more.py").is_file()


def test_sign_reads_the_password_from_the_environment(
    tiny_repository: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    arguments = ("builder", "sign", "pets", "--repository", tiny_repository, "--key", keys / "locked.pem", "--json")
    without = command(*arguments)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    wrong = command(*arguments)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD.decode())
    right = command(*arguments)
    assert error_codes(without) == error_codes(wrong) == {"signature.private_key"}
    assert [one["model"] for one in json.loads(right.stdout)] == ["pets", "pets_decode", "pets_encoded"]
    assert PASSWORD.decode() not in right.output
    check_signed(tiny_repository, (), keys / "locked.pub")


def test_keys_that_cannot_be_used_are_refused(signed: Path, keys: Path, tmp_path: Path) -> None:
    edwards, pem = ed25519.Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    (tmp_path / "ed.pub").write_bytes(
        edwards.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for key in (keys / "model.pem", tmp_path / "ed.pub", tmp_path / "missing", signed / "pets" / CONFIG_FILE):
        with raises(InputError, "signature.public_key"):
            check_signed(signed, (), key)
    for key in (keys / "model.pub", tmp_path / "missing"):
        with raises(InputError, "signature.private_key"):
            sign_models(signed, (), key)


def test_tampered_package_is_not_signed(package: Path, keys: Path, tmp_path: Path) -> None:
    files = contents(package)
    path = write(tmp_path / "p.zip", {**files, "pets/1/model.onnx": flip(files["pets/1/model.onnx"])})
    before = file_sha256(path)
    with raises(ArtifactError, "repository.changed_file"):
        sign_package(path, keys / "model.pem")
    assert file_sha256(path) == before


@pytest.mark.usefixtures("own_state")
def test_server_starts_and_reloads_only_what_is_signed(
    signed: Path, keys: Path, free_ports: Ports, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports()
    signature, arguments = signed / "pets/1/model.sig", ("--require-signed", keys / "model.pub", *ports, "--json")
    kept = signature.read_bytes()
    signature.unlink()
    refused = command("server", "up", "--repository", signed, *arguments, "--force")
    assert (refused.exit_code, error_codes(refused)) == (1, {"signature.missing"})
    doctor = command("server", "doctor", "--repository", signed, *arguments)
    assert "signature.missing" in {finding["code"] for finding in json.loads(doctor.stdout)["findings"]}
    signature.write_bytes(kept)
    started = command("server", "up", "--repository", signed, *arguments)
    assert started.exit_code == 0, started.output
    grpc_port = ports[ports.index("--grpc-port") + 1]
    same = command("server", "reload", "--grpc-port", grpc_port, "--json")
    assert same.exit_code == 0, same.output  # although Triton has written caches of Python code
    change(signed / "pets_decode" / "1" / "decoder.py")
    reloaded = command("server", "reload", "pets", "--grpc-port", grpc_port, "--json")
    assert (reloaded.exit_code, error_codes(reloaded)) == (1, {"signature.changed_file"})
    [server] = running_servers(int(grpc_port))
    monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, server.tokens.admin or "")
    by_address = command("server", "reload", "pets", "--url", f"localhost:{grpc_port}", "--json")
    assert (by_address.exit_code, error_codes(by_address)) == (1, {"signature.changed_file"})
    triton = next(child for child in psutil.Process(server.pid).children() if "tritonserver" in child.name())
    triton.kill()
    psutil.wait_procs([psutil.Process(server.pid)], timeout=30)
    assert running_servers(int(grpc_port)) == []
    assert REFUSED_PREFIX in server.log.read_text()
    assert "decoder.py" in server.log.read_text()


def test_start_in_python_checks_signatures_too(tiny_repository: Path, keys: Path) -> None:
    with raises(CheckFailedError, "signature.missing"):
        start(options_for(tiny_repository, require_signed=keys / "model.pub"))
