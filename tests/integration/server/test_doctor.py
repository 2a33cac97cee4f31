"""What `server doctor` finds before a start: each fault planted gives one finding, with the way out."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from builder.repository.lint import check_repository
from server.cli import app
from server.doctor.command import check_before_start
from server.doctor.diagnosis import diagnose, start_findings
from server.doctor.machine import Machine, inspect_machine
from server.options import Options
from tests.errors import raises
from tests.fixture_types import Ports
from tests.plans import IMAGE, PLAN, build_record
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.repository.build_record import BuildSettings
from tritonkit.repository.finding import Finding
from tritonkit.repository.manifest import FileEntry, Manifest
from tritonkit.repository.model_folder import VersionFolder
from tritonkit.repository.reexport_command import reexport_command
from tritonkit.repository.staging import staging_folder
from tritonkit.spec import ModelSpec
from tritonkit.system.gpu import Gpu
from tritonkit.triton.model_config import config_to_text, read_config

GIB = 2**30
LAPTOP = Machine(memory_bytes=8 * GIB, shared_memory_bytes=GIB)
L4 = Machine(
    memory_bytes=8 * GIB,
    shared_memory_bytes=GIB,
    gpu=Gpu(name="NVIDIA L4", compute_capability="8.9"),
    gpu_memory_bytes=20 * GIB,
)


def diagnose_repository(
    repository: Path, machine: Machine = LAPTOP, deep: bool = False, **options: Any
) -> list[Finding]:
    return diagnose(Options(repository=repository, **options), machine, deep)


def configure(model: Path, change: Callable[[Any], object]) -> None:
    """Change a model's configuration; the file itself is a link of other copies."""
    config = read_config(model)
    change(config)
    (model / "config.pbtxt").unlink()
    (model / "config.pbtxt").write_text(config_to_text(config))


def replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def add_plan(repository: Path, tensorrt: str = "11.1.0.106", record: bool = True, **settings: Any) -> Path:
    """Make `pets` a model with a plan for an L4; the plan's file."""
    version = repository / "pets" / "1"
    plan = version / "model.plan"
    plan.write_bytes(PLAN)
    (version / "model.onnx").unlink()
    sha256 = hashlib.sha256(PLAN).hexdigest()
    built = build_record(tensorrt=tensorrt, sha256=sha256, settings=BuildSettings(max_batch=8, **settings))
    manifest = Manifest.read_file(version / Manifest.FILE)
    files = {plan.name: FileEntry(sha256=sha256, bytes=len(PLAN))}
    changed = manifest.model_copy(update={"files": files, "build": built if record else None})
    replace(version / Manifest.FILE, changed.model_dump_json().encode())
    verdict = json.loads((version / "verdict.json").read_bytes())
    replace(version / "verdict.json", json.dumps({**verdict, "format": "trt", "precision": "fp16"}).encode())
    configure(repository / "pets", lambda config: setattr(config, "backend", "tensorrt"))
    return plan


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_doctor_finds_nothing_when_all_is_well(tiny_repository: Path) -> None:
    assert diagnose_repository(tiny_repository, deep=True) == []
    assert diagnose_repository(tiny_repository, L4, runtime="docker", image=IMAGE) == []
    add_plan(tiny_repository)
    assert diagnose_repository(tiny_repository, L4, runtime="docker", image=IMAGE) == []


@pytest.mark.parametrize(
    ("tensorrt", "settings", "image", "severity", "problem", "fix"),
    [
        (
            "11.2.1",
            {},
            IMAGE,
            "error",
            "an older TensorRT never loads it",
            "set TRITON_IMAGE in .env to a tag 26.08-py3",
        ),
        ("11.0.0", {}, IMAGE, "error", "not version-compatible", "a tag 26.06-py3"),
        (
            "11.0.0",
            {"version_compatible": True},
            IMAGE,
            "warning",
            "only with an option",
            "add --version-compatible to `server up`; Compose: VERSION_COMPATIBLE=yes; Triton itself: --backend-config",
        ),
        ("11.1.0", {}, "mine/triton:1", "warning", "is not known here", "printenv mine/triton:1 TRT_VERSION"),
    ],
)
def test_doctor_compares_a_plan_with_the_image(
    tiny_repository: Path, tensorrt: str, settings: dict[str, Any], image: str, severity: str, problem: str, fix: str
) -> None:
    plan = add_plan(tiny_repository, tensorrt, **settings)
    findings = [
        finding
        for finding in diagnose_repository(tiny_repository, L4, runtime="docker", image=image)
        if problem in finding.message
    ]
    assert {(finding.severity, finding.path) for finding in findings} == {(severity, str(plan))}
    assert any(fix in finding.fix for finding in findings)
    if severity == "error":
        expected_command = f"/pets.safetensors --trt fp16 --max-batch 8 --in-container --image {image} --name pets"
        assert expected_command in findings[0].fix


@pytest.mark.parametrize("tensorrt", ["11.0.0", "11.1.0.106"])
def test_doctor_is_silent_about_a_version_compatible_plan_when_triton_is_told_of_it(
    tiny_repository: Path, tensorrt: str
) -> None:
    docker_options: dict[str, Any] = {"runtime": "docker", "image": IMAGE, "version_compatible": True}
    add_plan(tiny_repository, tensorrt, version_compatible=True)
    assert diagnose_repository(tiny_repository, L4, **docker_options) == []


def test_doctor_still_warns_of_an_older_plan_without_a_record_when_triton_is_told_to_take_any(
    tiny_repository: Path,
) -> None:
    plan = add_plan(tiny_repository, record=False)
    older = PLAN.replace(bytes((11, 1)), bytes((10, 9)))
    replace(plan, older)
    docker_options: dict[str, Any] = {"runtime": "docker", "image": IMAGE}
    errors = [
        finding
        for finding in diagnose_repository(tiny_repository, L4, **docker_options)
        if "not known to be version" in finding.message
    ]
    assert only(errors).severity == "error"
    findings = diagnose_repository(tiny_repository, L4, **docker_options, version_compatible=True)
    warning = only([finding for finding in findings if "TensorRT 10.9" in finding.message])
    assert (warning.severity, "only if it was built version-compatible" in warning.message) == ("warning", True)


def test_version_compatible_without_docker_is_refused(tiny_repository: Path) -> None:
    with pytest.raises(ValidationError, match="add --runtime docker"):
        diagnose_repository(tiny_repository, version_compatible=True)


def test_doctor_asks_the_engine_whether_containers_have_the_gpu(tiny_repository: Path) -> None:
    def codes(image: str | None = None) -> list[tuple[str, str]]:
        machine = L4.model_copy(update={"containers_have_gpu": False})
        return [
            (finding.severity, finding.code)
            for finding in diagnose_repository(tiny_repository, machine, runtime="docker", image=image)
        ]

    unused = ("warning", "docker.no_gpu")
    assert codes() == [unused]
    add_plan(tiny_repository)
    assert codes() == [("error", "server.no_tensorrt"), unused]
    assert ("error", "machine.no_gpu") in codes(IMAGE)
    assert (
        diagnose_repository(
            tiny_repository, L4.model_copy(update={"containers_have_gpu": True}), runtime="docker", image=IMAGE
        )
        == []
    )


def test_image_without_docker_is_refused(tiny_repository: Path) -> None:
    for verb in ("doctor", "up"):
        refused = CliRunner().invoke(app, [verb, "--repository", str(tiny_repository), "--image", IMAGE])
        assert (refused.exit_code, f"--image {IMAGE}: " in refused.stderr) == (2, True)


def test_doctor_reads_the_header_when_a_plan_has_no_record(tiny_repository: Path) -> None:
    add_plan(tiny_repository, record=False)
    finding, dated = diagnose_repository(tiny_repository, L4, runtime="docker", image="x/tritonserver:26.06-py3")
    assert dated.code == "server.vulnerable_release"
    assert "built by TensorRT 11.1.0.106" in finding.message


def test_doctor_compares_a_plan_with_the_gpu(tiny_repository: Path) -> None:
    add_plan(tiny_repository)
    older = L4.model_copy(update={"gpu": Gpu(name="NVIDIA A10", compute_capability="8.6")})
    finding = only(diagnose_repository(tiny_repository, older, runtime="docker", image=IMAGE))
    assert finding.code == "tensorrt.other_gpu"
    assert "NVIDIA L4 (compute capability 8.9)" in finding.message
    assert "8.6" in finding.message
    assert "--hardware ampere_plus" in finding.fix
    without_gpu = only(diagnose_repository(tiny_repository, LAPTOP, runtime="docker", image=IMAGE))
    assert without_gpu.code == "machine.no_gpu"


def test_doctor_says_that_the_pip_runtime_has_no_tensorrt(tiny_repository: Path) -> None:
    add_plan(tiny_repository)
    finding = only(diagnose_repository(tiny_repository))
    assert (finding.severity, finding.code) == ("error", "server.no_tensorrt")
    assert "server up --runtime docker" in finding.fix
    assert "/pets.safetensors --onnx fp16 --max-batch 8 --name pets" in finding.fix


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (PLAN[:100], "repository.damaged_plan"),
        (PLAN[:-1] + b"\1", "repository.changed_file"),
        (b"not a plan", "repository.damaged_plan"),
    ],
)
def test_doctor_finds_a_damaged_plan(tiny_repository: Path, content: bytes, code: str) -> None:
    plan = add_plan(tiny_repository)
    replace(plan, content)
    finding = only(diagnose_repository(tiny_repository, L4, runtime="docker", image=IMAGE))
    assert (finding.severity, finding.path) == ("error", str(plan))
    assert finding.code == code
    assert "/pets.safetensors --trt fp16" in finding.fix


def test_doctor_finds_what_is_missing_or_changed(tiny_repository: Path, exported_once: Path) -> None:
    pets = tiny_repository / "pets"
    replace(pets / "1" / "model.onnx", b"short")
    assert only(diagnose_repository(tiny_repository)).code == "repository.changed_file"
    (pets / "1" / "model.onnx").unlink()
    finding = only(diagnose_repository(tiny_repository))
    assert (finding.path, finding.code) == (str(pets / "1" / "model.onnx"), "repository.no_artifact")
    assert finding.fix == (
        f"builder export {exported_once.parent}/pets.safetensors --onnx fp32 --max-batch 8 --name pets "
        f"--repository {tiny_repository}"
    )


@pytest.mark.parametrize(
    ("change", "severity", "code", "fix"),
    [
        (lambda c: setattr(c, "backend", "dali"), "error", "server.no_backend", "docker"),
        (lambda c: setattr(c, "name", "cats"), "error", "repository.config_name", "`name`"),
        (lambda c: setattr(c.response_cache, "enable", True), "warning", "server.no_cache", "--cache-mib 64"),
        (lambda c: c.instance_group.add(count=1, kind=1), "error", "machine.no_gpu", "--kind cpu"),
        (lambda c: c.version_policy.specific.versions.append(9), "error", "repository.version_policy", "latest"),
        (lambda c: c.instance_group.add(count=60000), "error", "machine.memory", "--model"),
    ],
)
def test_doctor_finds_what_a_configuration_asks_in_vain(
    tiny_repository: Path, change: Callable[[Any], object], severity: str, code: str, fix: str
) -> None:
    configure(tiny_repository / "pets", change)
    findings = [finding for finding in diagnose_repository(tiny_repository) if finding.code == code]
    assert only(findings).severity == severity
    assert fix in findings[0].fix


def test_doctor_refuses_an_index_of_faiss_when_an_image_of_nvidia_serves(tiny_repository: Path) -> None:
    configure(tiny_repository / "pets", lambda config: setattr(config, "backend", "faiss"))
    options = {"runtime": "docker", "image": "nvcr.io/nvidia/tritonserver:26.07-py3"}
    findings = diagnose_repository(tiny_repository, **options)
    fixes = [finding.fix for finding in findings if finding.code == "server.no_backend"]
    assert fixes == ["server up --runtime pip, or docker compose up triton-cpu"]


def test_doctor_finds_missing_labels_and_warm_up(tiny_repository: Path) -> None:
    pets = tiny_repository / "pets"
    (pets / "labels.txt").unlink()

    def warm(config: Any) -> None:
        config.model_warmup.add(name="one", batch_size=1).inputs["image"].input_data_file = "golden_image.raw"

    configure(pets, warm)
    labels, warmup = diagnose_repository(tiny_repository)
    assert (labels.path, labels.code) == (str(pets / "labels.txt"), "repository.no_labels")
    assert (warmup.severity, warmup.code) == ("error", "repository.warmup")


def test_doctor_finds_a_step_that_is_not_there(tiny_repository: Path) -> None:
    (tiny_repository / "pets_decode").rename(tiny_repository.parent / "pets_decode")
    findings = diagnose_repository(tiny_repository)
    assert (findings[0].severity, findings[0].code) == ("error", "ensemble.missing_step")
    assert [finding.code for finding in findings[1:]] == ["ensemble.missing_input"]
    assert diagnose_repository(tiny_repository, models=("pets",)) == []
    assert diagnose_repository(tiny_repository, models=("pets_encoded",)) == findings


def test_doctor_finds_what_is_no_model_and_what_was_left(tiny_repository: Path) -> None:
    (tiny_repository / "notes").mkdir()
    (tiny_repository / "empty").mkdir()
    (tiny_repository / "empty" / "config.pbtxt").write_text('backend: "onnxruntime"')
    (tiny_repository / "broken").mkdir()
    (tiny_repository / "broken" / "config.pbtxt").write_text("name: ")
    (staging_folder(tiny_repository) / "pets-01234567").mkdir(parents=True)
    findings = diagnose_repository(tiny_repository)
    codes = [(finding.severity, finding.code) for finding in findings]
    findings_by_name = {Path(finding.path).name: (finding.severity, finding.message) for finding in findings}
    assert ("warning", "repository.not_a_model") in codes
    assert findings_by_name["notes"][0] == "warning"
    assert ("error", "repository.no_version") in codes
    assert "not a Triton model configuration" in findings_by_name["config.pbtxt"][1]
    assert ("warning", "repository.leftover") in codes
    assert len(findings_by_name) == 4
    with raises(InputError, "repository.no_model", "broken, empty, pets"):
        diagnose_repository(tiny_repository, models=("cats",))


@pytest.mark.parametrize("name", ["../repository", ".", "pets/1", "./pets", ""])
def test_doctor_refuses_a_name_that_is_no_folder_right_in_the_repository(tiny_repository: Path, name: str) -> None:
    with raises(InputError, "repository.no_model", "pets, pets_decode, pets_encoded"):
        diagnose_repository(tiny_repository, models=(name,))


def test_doctor_names_the_largest_model_of_those_in_this_memory_when_others_are_on_the_gpu(
    tiny_repository: Path,
) -> None:
    shutil.copytree(tiny_repository / "pets", tiny_repository / "small")
    configure(tiny_repository / "small", lambda config: config.instance_group.add(count=60000, kind=2))
    configure(tiny_repository / "small", lambda config: setattr(config, "name", "small"))
    configure(tiny_repository / "pets", lambda config: config.instance_group.add(count=70000, kind=1))
    roomy = L4.model_copy(update={"gpu_memory_bytes": 2**50})
    findings = diagnose_repository(tiny_repository, roomy, runtime="docker", image=IMAGE)
    (memory,) = [finding for finding in findings if finding.code == "machine.memory"]
    assert "The largest: small " in memory.message
    assert "pets " not in memory.message


def test_doctor_counts_memory_and_shared_memory(tiny_repository: Path) -> None:
    small = LAPTOP.model_copy(update={"shared_memory_bytes": 2**20})
    finding = only(diagnose_repository(tiny_repository, small))
    assert (finding.severity, finding.path) == ("warning", "/dev/shm")
    assert finding.code == "machine.shared_memory"
    assert "1 MiB" in finding.message
    assert "remount,size=" in finding.fix
    (tiny_repository.parent / ".env").write_text("SHM_SIZE=1m\n")
    python = only(diagnose_repository(tiny_repository, LAPTOP, runtime="docker"))
    assert (python.severity, "set SHM_SIZE=" in python.fix) == ("warning", True)
    (tiny_repository.parent / ".env").unlink()
    full = L4.model_copy(update={"gpu_memory_bytes": 10})
    finding = only(diagnose_repository(tiny_repository, full, runtime="docker", image=IMAGE))
    assert finding.code == "machine.gpu_memory"


def test_doctor_warns_of_an_image_with_known_faults(tiny_repository: Path) -> None:
    finding = only(
        diagnose_repository(tiny_repository, L4, runtime="docker", image="nvcr.io/nvidia/tritonserver:25.10-py3")
    )
    assert (finding.severity, "CVE-2026-16497" in finding.message) == ("warning", True)
    assert "TRITON_IMAGE to 26.07-py3 or newer" in finding.fix


def test_doctor_finds_a_port_that_is_taken(tiny_repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        options = Options(repository=tiny_repository, http_port=port, grpc_port=port + 1, metrics_port=port + 2)
        findings = [finding for finding in start_findings(options) if finding.severity == "error"]
    assert f"HTTP port {port} is in use" in only(findings).message
    assert "--http-port" in findings[0].fix


def test_doctor_tells_everything_when_the_key_of_tls_is_not_there(tiny_repository: Path, tmp_path: Path) -> None:
    (tmp_path / "server.pem").touch()
    (tiny_repository / "pets" / "labels.txt").unlink()
    pair = ("--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "gone.key")
    document = json.loads(run_doctor("--repository", tiny_repository, *pair, "--json").stdout)
    codes = {finding["code"] for finding in document["findings"]}
    assert {"repository.no_labels", "tls.unreadable"} <= codes, codes
    assert [finding for finding in document["findings"] if "gone.key" in finding["message"]]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("checkpoint my best.pth", "'my best.pth'"),
        ("my pets.onnx (made by torch 2.9): as told", "'my pets.onnx'"),
        ("pets.pth into timm resnet18: all weights", "pets.pth"),
        ("timm resnet18, weights timm/resnet18.a1_in1k", "SOURCE"),
    ],
)
def test_command_to_export_again_names_the_whole_file_or_none(
    tiny_repository: Path, source: str, expected: str
) -> None:
    version = tiny_repository / "pets" / "1"
    manifest = Manifest.read_file(version / Manifest.FILE)
    replace(version / Manifest.FILE, manifest.model_copy(update={"source": source}).model_dump_json().encode())
    assert reexport_command(VersionFolder(version), tiny_repository).startswith(f"builder export {expected} --")


def test_command_to_export_third_party_weights_again_names_their_preprocessing(tiny_repository: Path) -> None:
    version = VersionFolder(tiny_repository / "pets" / "1")
    assert version.manifest is not None
    version.manifest.model_copy(update={"source": "pets.pth into timm resnet18: all weights"}).write(version.path)
    command = reexport_command(VersionFolder(version.path), tiny_repository)
    assert " --size 32x32 --fit crop --crop-ratio " in command
    spec = ModelSpec.read(version.path)
    assert spec is not None
    assert f" --mean {','.join(f'{value:g}' for value in spec.normalize.mean)} --std " in command


def test_check_finds_the_same_faults_as_doctor(tiny_repository: Path) -> None:
    pets = tiny_repository / "pets"
    replace(pets / "labels.txt", b"cow\n")
    replace(pets / "1" / "model.onnx", b"short")
    configure(pets, lambda config: config.dynamic_batching.preferred_batch_size.append(99))
    doctor = {(finding.code, finding.path) for finding in diagnose_repository(tiny_repository)}
    codes = {code for code, _ in doctor}
    assert codes == {"repository.labels_differ", "repository.changed_file", "config.preferred_batch"}
    assert doctor < {(finding.code, finding.path) for finding in check_repository(tiny_repository)}


@pytest.mark.parametrize("size", ["1.5g", "1gib", "1500mb", "1 g"])
def test_doctor_reads_sizes_as_docker_does(tiny_repository: Path, size: str) -> None:
    (tiny_repository.parent / ".env").write_text(f"SHM_SIZE={size}\n")
    configure(tiny_repository / "pets", lambda config: setattr(config, "backend", "python"))
    options = Options(repository=tiny_repository, runtime="docker")
    assert not [finding for finding in diagnose(options, inspect_machine()) if finding.code == "machine.shared_memory"]


def test_this_machine_has_memory() -> None:
    machine = inspect_machine()
    assert machine.memory_bytes > 2**20
    assert machine.shared_memory_bytes >= 0


def test_start_is_refused_unless_forced(tiny_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_before_start(Options(repository=tiny_repository))
    (tiny_repository / "pets" / "labels.txt").unlink()
    with raises(CheckFailedError, "repository.no_labels") as caught:
        check_before_start(Options(repository=tiny_repository))
    assert caught.value.code == "doctor.errors"
    assert "--force" in str(caught.value)
    assert "labels.txt" in str(caught.value)
    capsys.readouterr()
    check_before_start(Options(repository=tiny_repository), force=True)
    assert "warning: " in capsys.readouterr().err


def run_doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_command_exits_with_1_when_there_is_an_error(tiny_repository: Path, free_ports: Ports) -> None:
    arguments = ("--repository", tiny_repository, *free_ports())
    passed = run_doctor(*arguments)
    assert (passed.exit_code, "0 errors" in passed.stdout) == (0, True), passed.stdout
    (tiny_repository / "pets" / "labels.txt").unlink()
    document = json.loads(run_doctor(*arguments, "--json").stdout)
    assert document["errors"] == 1
    assert document["findings"][0].keys() == {"severity", "code", "path", "message", "fix"}
    assert run_doctor(*arguments).exit_code == 1
    findings = json.loads(run_doctor(*arguments, "--host", "0.0.0.0", "--expose", "--json").stdout)
    assert any(finding["code"] == "option.expose_without_tls" for finding in findings["findings"])
    refused = run_doctor("--repository", tiny_repository / "none")
    assert (refused.exit_code, "Traceback" in refused.stderr) == (2, False)
