"""`builder package` and `builder install`: what comes out goes in, and what was tampered with does not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder.packages import install_package, write_package
from builder.packages.archive import MAX_RATIO
from builder.repository.lint import check_repository
from tests.errors import error_codes, raises
from tests.fixture_types import Command, MakeNetwork
from tests.packages import Contents, contents, entry_of, flip, install, rehash, with_code, with_labels, write
from tests.serving import options_for, serving
from tests.web import ANY_PORT, Quiet, listening
from tritonkit.errors import ArtifactError, CheckFailedError, InputError, TritonkitError
from tritonkit.networks.network import save_network
from tritonkit.remotes.cache import CACHE_VARIABLE
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import Lineage
from tritonkit.system.files import file_sha256
from tritonkit.triton.model_config import CONFIG_FILE, config_from_text, config_to_text

ARTIFACT, VERDICT, CONFIG = "pets/1/model.onnx", "pets/1/verdict.json", f"pets/{CONFIG_FILE}"


@pytest.fixture(scope="module")
def package(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of `pets`."""
    return write_package(exported_once / "pets", 1, tmp_path_factory.mktemp("package"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that does not exist yet."""
    return tmp_path / "models" / "repository"


def with_verdict(files: Contents, **fields: Any) -> Contents:
    """The package with a changed verdict, and a manifest that fits it."""
    verdict = Verdict.model_validate_json(files[VERDICT]).model_copy(update=fields)
    return rehash({**files, VERDICT: verdict.model_dump_json().encode()})


def with_config(files: Contents, change: Callable[[Any], object], path: str = CONFIG) -> Contents:
    """The package with a changed configuration."""
    config = config_from_text(files[path].decode(), path)
    change(config)
    return {**files, path: config_to_text(config).encode()}


def assert_untouched(repository: Path) -> None:
    assert not repository.exists()
    assert list(repository.parent.parent.glob("**/.*package-*")) == []


def test_package_has_the_same_bytes_when_written_again_and_after_an_install(
    package: Path, exported_once: Path, repository: Path, tmp_path: Path
) -> None:
    again = write_package(exported_once / "pets", 1, tmp_path / "again.zip")
    installed = install(package, repository)
    assert file_sha256(again) == file_sha256(package)
    assert file_sha256(write_package(installed.folder.parent, 1, tmp_path)) == file_sha256(package)


def test_package_unpacks_into_a_repository_that_has_no_findings(package: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert check_repository(tmp_path / "unpacked") == []


def test_triton_serves_an_installed_package(
    package: Path, repository: Path, photos: Path, command: Command, tmp_path: Path
) -> None:
    installed = install(package, repository)
    assert installed.models == ("pets", "pets_decode", "pets_encoded")
    assert check_repository(repository) == []
    with serving(options_for(repository)) as server:
        output, url = tmp_path / "answers.jsonl", server.options.grpc_url
        done = command("client", "infer", photos, "--model", "pets", "--url", url, "--output", output)
    assert done.exit_code == 0, done.output
    assert len(output.read_text().splitlines()) == 4


def test_install_publishes_new_content_once_as_the_next_version(
    package: Path, tiny_repository: Path, tmp_path: Path, command: Command
) -> None:
    same = install(package, tiny_repository)
    files = contents(package)
    other = write(tmp_path / "other.zip", rehash({**files, "pets/1/verdict.html": b"<p>another page</p>"}))
    first = command("builder", "install", other, "--repository", tiny_repository, "--json")
    second = command("builder", "install", other, "--repository", tiny_repository)
    assert (same.version, same.new) == (1, False)
    assert json.loads(first.stdout)["version"] == 2
    assert "already installed" in second.stdout
    assert check_repository(tiny_repository) == []


def test_install_keeps_a_pinned_version(package: Path, tiny_repository: Path, tmp_path: Path, command: Command) -> None:
    assert command("builder", "promote", "pets", 1, "--repository", tiny_repository).exit_code == 0
    other = write(tmp_path / "other.zip", rehash({**contents(package), "pets/1/verdict.html": b"<p>other</p>"}))
    installed = install(other, tiny_repository)
    assert (installed.version, installed.served) == (2, False)
    assert any("builder promote pets 2" in warning for warning in installed.warnings)
    assert check_repository(tiny_repository) == []


def test_package_of_a_version_that_is_not_served_has_its_own_configuration(
    package: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other.zip", rehash({**contents(package), "pets/1/verdict.html": b"<p>other</p>"}))
    install(other, tiny_repository)
    assert file_sha256(write_package(tiny_repository / "pets", 1, tmp_path)) == file_sha256(package)


def test_install_under_another_name_renames_spec_verdict_and_companions(package: Path, tiny_repository: Path) -> None:
    installed = install(package, tiny_repository, name="animals")
    assert installed.models == ("animals", "animals_decode", "animals_encoded")
    assert check_repository(tiny_repository) == []
    verdict = Verdict.read(installed.folder)
    assert verdict is not None
    assert verdict.model == "animals"


def test_install_by_address_checks_its_hash(
    package: Path, repository: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    class Store(Quiet, SimpleHTTPRequestHandler):
        def __init__(self, *request: Any) -> None:
            super().__init__(*request, directory=str(package.parent))

    with listening(ThreadingHTTPServer(ANY_PORT, Store)) as store:
        address = f"http://127.0.0.1:{store.server_port}/{package.name}#sha256="
        wrong = command("builder", "install", f"{address}{'0' * 64}", "--repository", repository, "--json")
        assert_untouched(repository)
        right = command("builder", "install", f"{address}{file_sha256(package)}", "--repository", repository, "--json")
    assert (wrong.exit_code, error_codes(wrong)) == (2, {"remote.hash"})
    assert json.loads(right.stdout)["version"] == 1


UNSAFE_PATHS = ("../x", "/x", "pets/../../x", "pets/1/../../../x", "pets\\..\\x", "C:/x/y", "pets/nul.txt", "x")


@pytest.mark.parametrize("name", UNSAFE_PATHS)
def test_install_refuses_a_path_that_leaves_the_folder(
    name: str, package: Path, repository: Path, tmp_path: Path
) -> None:
    with raises(ArtifactError, "package.unsafe_path"):
        install(write(tmp_path / "p.zip", {**contents(package), name: b"x"}), repository)
    assert_untouched(repository)
    assert not (tmp_path / "x").exists()


DAMAGES: dict[str, tuple[Callable[[Contents], Contents], bool, str]] = {
    "bit of the artifact": (lambda files: {**files, ARTIFACT: flip(files[ARTIFACT])}, False, "package.changed_file"),
    "bit of the verdict": (lambda files: {**files, VERDICT: flip(files[VERDICT])}, False, "package.changed_file"),
    "artifact, listed": (lambda files: {**files, ARTIFACT: flip(files[ARTIFACT])}, True, "repository.changed_file"),
    "artifact, listed and in the manifest": (
        lambda files: rehash({**files, ARTIFACT: flip(files[ARTIFACT])}),
        True,
        "repository.other_verdict",
    ),
    "no package.json": (lambda files: {**files, "pets/package.json": b""}, False, "package.metadata"),
    "an unlisted file": (lambda files: {**files, "pets/extra": b"x"}, False, "package.unlisted_file"),
    "a missing file": (
        lambda files: {name: data for name, data in files.items() if name != "pets/labels.txt"},
        False,
        "package.unlisted_file",
    ),
    "a file outside the manifest": (lambda files: {**files, "pets/1/extra": b"x"}, True, "package.unlisted_file"),
    "a second version": (lambda files: {**files, "pets/2/model.onnx": b"x"}, True, "package.unlisted_file"),
    "names that differ by case": (lambda files: {**files, "pets/LABELS.txt": b"x"}, True, "package.duplicate"),
    "no verdict": (
        lambda files: rehash({name: data for name, data in files.items() if name != VERDICT}),
        True,
        "package.unbound_verdict",
    ),
    "an old verdict": (
        lambda files: with_verdict(files, model=None, artifact_sha256=None),
        True,
        "package.unbound_verdict",
    ),
    "another model's verdict": (lambda files: with_verdict(files, model="dogs"), True, "repository.other_verdict"),
    "another artifact's verdict": (
        lambda files: with_verdict(files, artifact_sha256="0" * 64),
        True,
        "repository.other_verdict",
    ),
    "other labels": (lambda files: {**files, "pets/labels.txt": b"dog\ncat\nbird\n"}, True, "repository.labels_differ"),
    "other labels wherever Triton and clients read them": (
        lambda files: (
            files | {name: text.encode() for name, text in with_labels(lambda name: files[name].decode()).items()}
        ),
        True,
        "repository.spec_differs",
    ),
    "another size of the images": (
        lambda files: with_config(files, lambda config: config.input[0].dims.__setitem__(0, 8)),
        True,
        "repository.graph_interface",
    ),
    "an environment": (
        lambda files: with_config(
            files, lambda config: config.parameters["EXECUTION_ENV_PATH"].__setattr__("string_value", "env.tar.gz")
        ),
        True,
        "package.foreign_code",
    ),
    "a library": (
        lambda files: with_config(files, lambda config: config.model_operations.op_library_filename.append("x.so")),
        True,
        "package.foreign_code",
    ),
    "a runtime": (
        lambda files: with_config(files, lambda config: config.__setattr__("runtime", "x.so")),
        True,
        "package.foreign_code",
    ),
    "an unknown backend": (
        lambda files: with_config(files, lambda config: config.__setattr__("backend", "evil")),
        True,
        "package.backend",
    ),
    "a backend for another file": (
        lambda files: with_config(files, lambda config: config.__setattr__("backend", "openvino")),
        True,
        "package.backend",
    ),
    "a library of an accelerator": (
        lambda files: with_config(
            files,
            lambda config: config.optimization.execution_accelerators.gpu_execution_accelerator.add(
                name="tensorrt", parameters={"trt_extra_plugin_lib_paths": "x.so"}
            ),
        ),
        True,
        "package.foreign_code",
    ),
    "a path as file name": (
        lambda files: with_config(files, lambda config: config.__setattr__("default_model_filename", "../x.onnx")),
        True,
        "package.unsafe_path",
    ),
    "label files elsewhere": (
        lambda files: with_config(
            files, lambda config: config.output[0].__setattr__("label_filename", "../../../etc/passwd")
        ),
        True,
        "package.unsafe_path",
    ),
    "code of a model": (with_code, True, "package.foreign_code"),
    "a model that says it is a decoder": (
        lambda files: with_config(
            with_verdict(files, passed=False),
            lambda config: config.parameters["encoded_of"].__setattr__("string_value", "dogs"),
        ),
        True,
        "verdict.not_passed",
    ),
    "a decoder of nobody": (
        lambda files: with_config(
            files,
            lambda config: config.parameters["encoded_of"].__setattr__("string_value", "dogs"),
            "pets_decode/config.pbtxt",
        ),
        True,
        "package.companion",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_install_refuses_a_changed_package_and_writes_nothing(
    damage: str, package: Path, repository: Path, tmp_path: Path
) -> None:
    change, relist, code = DAMAGES[damage]
    files = change(contents(package))
    if damage == "no package.json":
        del files["pets/package.json"]
    refusal = CheckFailedError if code == "verdict.not_passed" else ArtifactError
    with raises(refusal, code):
        install(write(tmp_path / "p.zip", files, relist), repository)
    assert_untouched(repository)


def test_install_writes_again_what_versions_share_and_deletes_what_the_package_lacks(
    package: Path, repository: Path, tmp_path: Path
) -> None:
    install(package, repository)
    config, steps = repository / "pets" / CONFIG_FILE, repository / "pets_encoded" / CONFIG_FILE
    before = config.read_bytes(), steps.read_bytes()
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 4"))
    steps.write_text(steps.read_text().replace("model_version: -1", "model_version: 1"))
    (repository / "pets" / "configs").mkdir()
    (repository / "pets" / "configs" / "my.pbtxt").write_text("")
    again = install(package, repository)
    assert (again.version, again.new, len(again.warnings)) == (1, False, 2)
    assert any("pets/configs/my.pbtxt" in warning for warning in again.warnings)
    assert (config.read_bytes(), steps.read_bytes()) == before
    assert install(package, repository).warnings == ()


def test_install_warns_of_settings_that_the_verdict_does_not_prove(
    package: Path, repository: Path, tmp_path: Path
) -> None:
    def change(config: Any) -> None:
        config.max_batch_size = 16
        config.optimization.execution_accelerators.cpu_execution_accelerator.add(name="openvino")

    installed = install(write(tmp_path / "p.zip", with_config(contents(package), change)), repository)
    assert ["openvino" in warning or "max_batch_size 16" in warning for warning in installed.warnings] == [True, True]


def test_unsigned_companions_that_fit_another_model_are_made_again(
    package: Path, repository: Path, tmp_path: Path
) -> None:
    files = with_config(
        contents(package),
        lambda config: config.ensemble_scheduling.step[1].__setattr__("model_version", 1),
        "pets_encoded/config.pbtxt",
    )
    install(write(tmp_path / "p.zip", files), repository)
    assert (repository / "pets_encoded" / CONFIG_FILE).read_bytes() == contents(package)["pets_encoded/config.pbtxt"]


def test_install_refuses_a_link(package: Path, repository: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(package, tmp_path / "p.zip"))
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("pets/1/link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with raises(ArtifactError, "package.special_file"):
        install(path, repository)
    assert_untouched(repository)


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_install_refuses_a_truncated_package(share: float, package: Path, repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    path.write_bytes(package.read_bytes()[: int(package.stat().st_size * share)])
    with raises(ArtifactError, "package.not_a_zip"):
        install(path, repository)
    assert_untouched(repository)


def test_install_refuses_bombs_in_little_memory_and_time(package: Path, repository: Path, tmp_path: Path) -> None:
    zeros, files = b"\0" * (200 * 2**20), contents(package)
    large = write(tmp_path / "large.zip", {**files, "pets/1/zeros": zeros}, method=zipfile.ZIP_DEFLATED)
    lying = json.loads(files["pets/package.json"])
    lying["files"]["pets/1/zeros"] = entry_of(b"").model_dump()
    lies = {**files, "pets/package.json": json.dumps(lying).encode(), "pets/1/zeros": zeros}
    small = write(tmp_path / "small.zip", lies, relist=False, method=zipfile.ZIP_DEFLATED)
    claims = small.read_bytes().replace(len(zeros).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    lying["files"]["pets/1/zeros"]["bytes"] = 1
    claims_one = tmp_path / "claims.zip"
    claims_one.write_bytes(claims)
    many = tmp_path / "many.zip"
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(60_000):
            archive.writestr(zipfile.ZipInfo(f"pets/1/{number:060}"), b"")
    assert large.stat().st_size * MAX_RATIO < len(zeros)
    tracemalloc.start()
    started = time.monotonic()
    for path, code in (
        (large, "package.too_large"),
        (small, "package.too_large"),
        (claims_one, "package.changed_file"),
        (many, "package.not_a_zip"),
    ):
        with raises(ArtifactError, code):
            install(path, repository)
    assert time.monotonic() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    tracemalloc.stop()
    assert_untouched(repository)


def test_forced_verdict_is_installed_only_by_force(package: Path, repository: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.zip", with_verdict(contents(package), passed=False, forced=True))
    with raises(CheckFailedError, "verdict.not_passed", "--force"):
        install(path, repository)
    assert_untouched(repository)
    assert install(path, repository, force=True).verdict == "FORCED"


def test_failed_verdict_is_not_installed_even_by_force(package: Path, repository: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.zip", with_verdict(contents(package), passed=False))
    with raises(CheckFailedError, "verdict.not_passed"):
        install(path, repository, force=True)


def test_code_of_a_decoder_is_not_taken_from_an_unsigned_package(
    package: Path, repository: Path, exported_once: Path, tmp_path: Path
) -> None:
    files = contents(package)
    for name, data in (("pets_decode/1/decoder.py", b"import os\n"), ("pets_decode/1/PIL.so", b"\x7fELF")):
        files[name] = data
    files = rehash(files, "pets_decode/1")
    manifest = json.loads(files["pets_decode/1/manifest.json"])
    manifest["files"]["PIL.so"] = entry_of(files["pets_decode/1/PIL.so"]).model_dump()
    files["pets_decode/1/manifest.json"] = json.dumps(manifest).encode()
    installed = install(write(tmp_path / "p.zip", files), repository)
    assert "pets_decode" in installed.models
    written, own = repository / "pets_decode" / "1", exported_once / "pets_decode" / "1"
    assert (written / "decoder.py").read_bytes() == (own / "decoder.py").read_bytes()
    assert not (written / "PIL.so").exists()


def test_package_refuses_what_has_no_verdict_or_was_changed(
    tiny_repository: Path, tmp_path: Path, command: Command
) -> None:
    artifact = tiny_repository / "pets" / "1" / "model.onnx"
    data = flip(artifact.read_bytes())
    artifact.unlink()
    artifact.write_bytes(data)
    with raises(ArtifactError, "repository.changed_file"):
        write_package(tiny_repository / "pets", 1, tmp_path / "p.zip")
    with raises(InputError, "package.not_published"):
        write_package(tiny_repository / "pets_decode", 1, tmp_path / "p.zip")
    with raises(InputError, "repository.unknown_version"):
        write_package(tiny_repository / "pets", 7, tmp_path / "p.zip")
    refused = command("builder", "package", "pets", "--group", "g", "--repository", tiny_repository, "--json")
    assert (refused.exit_code, error_codes(refused)) == (2, {"package.source"})
    assert not (tmp_path / "p.zip").exists()


def test_group_packages_its_latest_finished_run(
    make_network: MakeNetwork, tmp_path: Path, command: Command, repository: Path
) -> None:
    network, runs, output = make_network("test_resnet"), tmp_path / "runs", tmp_path / "release"
    section = {"onnx": "fp16", "max_batch": 4}
    for name, number, group, age in (("a", "1", "people", 20), ("b", "1", "people", 10), ("c", "1", "other", 0)):
        lineage = Lineage(group=group, metrics={"accuracy": 0.9}, config={"export": section})
        path = runs / name / number / "best.safetensors"
        path.parent.mkdir(parents=True)
        save_network(path, network, network.spec.model_copy(update={"lineage": lineage}))
        os.utime(path, (time.time() - age,) * 2)
    (runs / "d" / "1").mkdir(parents=True)  # not finished
    group = ("builder", "package", "--group", "people", "--runs", runs)
    done = command(*group, "--torchscript", "--onnx", "fp32", "--output", output, "--json")
    assert done.exit_code == 0, done.output
    meta = json.loads((output / "meta.json").read_text())
    assert (meta["run"], meta["group"], meta["metrics"]) == (str(runs / "b" / "1"), "people", {"accuracy": 0.9})
    assert {path.name for path in output.iterdir()} == {*meta["files"], "meta.json"}
    assert set(meta["files"]) == {"model.onnx", "model.pt", "pets-onnx-fp32.zip", "pets-torchscript-fp32.zip"}
    assert all(file_sha256(output / name) == file["sha256"] for name, file in meta["files"].items())
    assert all(file["verdict"] == "passed" for file in meta["files"].values())
    assert install(output / "pets-onnx-fp32.zip", repository).served
    again = command(*group, "--output", output, "--json")
    plan = command(*group, "--onnx", "fp32", "--trt", "fp16", "--output", tmp_path / "plan", "--json")
    unknown = command("builder", "package", "--group", "x", "--runs", runs, "--json")
    assert error_codes(again) == {"package.output_exists"}
    assert error_codes(unknown) == {"package.no_run"}
    assert plan.exit_code in (2, 3)
    assert not (tmp_path / "plan").exists()
    default = command(*group, "--output", tmp_path / "default", "--json")
    assert default.exit_code == 0, default.output
    assert (tmp_path / "default" / "pets-onnx-fp16.zip").is_file()


@pytest.mark.drill
def test_repository_loads_when_an_install_is_killed_at_any_moment(package: Path, tmp_path: Path) -> None:
    repository, seed = tmp_path / "repository", random.Random(7)
    install_package(package, repository)
    files, published, started = contents(package), 0, time.monotonic()
    install_package(package, tmp_path / "timed")
    install_s = time.monotonic() - started
    for number in range(30):
        page = f"<p>{number}</p>".encode()
        path = write(tmp_path / "p.zip", rehash({**files, "pets/1/verdict.html": page}))
        child = os.fork()
        if child == 0:
            try:
                install_package(path, repository)
            finally:
                os._exit(0)
        time.sleep(seed.uniform(0, 2 * install_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        findings = [finding for finding in check_repository(repository) if finding.severity == "error"]
        assert findings == []
        published += (repository / "pets" / str(published + 2)).is_dir()
    assert 0 < published < 30  # kills hit both before and after the publication
    assert install_package(package, repository).version == 1
    install_package(path, repository)
    assert list(tmp_path.glob(".repository.*")) == []
    with serving(options_for(repository)) as server, server.client() as client:
        assert {row.name for row in client.index() if row.is_ready} == {"pets", "pets_decode", "pets_encoded"}


def test_errors_name_no_scratch_folder(package: Path, repository: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.zip", {**contents(package), "pets/1/extra": b"x"})
    with pytest.raises(TritonkitError) as refused:
        install(path, repository)
    assert ".package-" not in str(refused.value)
