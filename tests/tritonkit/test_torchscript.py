"""Untrusted TorchScript files: they run only if all their operators only compute."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.errors import raises
from tritonkit.errors import ArtifactError, InputError
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.torchscript_archive import embedded_spec, load_torchscript
from tritonkit.spec import METADATA_KEY, ModelSpec

WRITTEN = Path("written-by-torchscript")
Change = Callable[[str, bytes], tuple[str, bytes]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which this module's networks would write files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(x: Tensor) -> Tensor:
    torch.save(x, "written-by-torchscript")
    return x


class InATask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(write, x))


@torch.jit.interface
class Layer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return write(x)


class BehindAnInterface(nn.Module):
    __annotations__ = {"layer": Layer}  # types, where the future import leaves texts

    def __init__(self) -> None:
        super().__init__()
        self.layer = Writes()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.forward(x)


class Doubles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 8:
            raise ValueError("too many")
        return self.layers(x) * 2


class InALoop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + torch.from_file("/etc/hostname", False, 4, dtype=torch.uint8).sum()
        return x


def scripted(module: nn.Module, path: Path, spec: str | None = None) -> Path:
    with warnings.catch_warnings(action="ignore"):
        extra = {} if spec is None else {METADATA_KEY: spec}
        torch.jit.save(torch.jit.script(module.eval()), path, _extra_files=extra)
    return path


def rewritten(path: Path, change: Change) -> Path:
    """Change the records of an archive."""
    reader = torch._C.PyTorchFileReader(str(path))
    changed = path.with_name("changed.pt")
    writer = torch._C.PyTorchFileWriter(str(changed))
    for record in reader.get_all_records():
        if record not in ("version", ".data/serialization_id") and not record.endswith(".debug_pkl"):
            name, content = change(record, reader.get_record(record))
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return changed


def code(old: bytes, new: bytes) -> Change:
    def changed(name: str, content: bytes) -> tuple[str, bytes]:
        return name, content.replace(old, new) if name.startswith("code/") else content

    return changed


def test_module_is_loaded_when_it_computes_alone(tmp_path: Path) -> None:
    module = Doubles().eval()
    loaded = load_torchscript(scripted(module, tmp_path / "given.pt"))
    x = torch.randn(4, 3)
    torch.testing.assert_close(loaded(x), module(x))


@pytest.mark.parametrize("module", [InATask, BehindAnInterface, Writes, InALoop])
def test_module_is_not_run_when_it_writes_out_of_sight(module: type[nn.Module], spec: ModelSpec, folder: Path) -> None:
    path = scripted(module(), folder / "given.pt", spec.to_json())
    for load in (load_torchscript, open_artifact):
        with raises(InputError, "torchscript.unsafe"):
            load(path)
    assert not WRITTEN.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"x: Tensor) ->", b'x: Tensor, y: int=torch.save(1, "written-by-torchscript")) ->'),
        (b"if torch", b'_ = getattr(torch, "sa" "ve")(x, "written-by-torchscript")\n    if torch'),
        (b"if torch", b'_ = getattr(torch, "s\\x61ve")(x, "written-by-torchscript")\n    if torch'),
        (b"if torch", b'x.save("written-by-torchscript")\n    if torch'),
        (b"if torch", b"_ = ops.c10d.barrier(x)\n    if torch"),
        (b"if torch", b'_ = ops.prim.rpc_sync("a", "b")\n    if torch'),
        (b"if torch", b"_ = __torch__.torch.classes.c10d.ProcessGroup(0, 1)\n    if torch"),
    ],
    ids=["default", "joined name", "escaped name", "method", "other namespace", "remote call", "class"],
)
def test_module_is_not_run_when_its_code_was_written_by_hand(old: bytes, new: bytes, folder: Path) -> None:
    path = rewritten(scripted(Doubles(), folder / "given.pt"), code(old, new))
    with raises(InputError, "torchscript.unsafe"):
        load_torchscript(path)
    assert not WRITTEN.exists()


@pytest.mark.parametrize(
    ("module", "operator"),
    [(InATask, "aten::save, aten::wait, prim::fork"), (BehindAnInterface, "aten::save"), (InALoop, "aten::from_file")],
)
def test_operators_are_found_in_what_was_compiled_when_no_text_tells(
    module: type[nn.Module], operator: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tritonkit.runtimes.torchscript_archive._FORBIDDEN_CODE", re.compile(b"nothing says so"))
    with raises(InputError, "torchscript.unsafe") as caught:
        load_torchscript(scripted(module(), folder / "given.pt"))
    assert f"calls {operator}, " in str(caught.value)
    assert not WRITTEN.exists()


def test_code_is_found_when_its_name_is_in_another_case(folder: Path) -> None:
    def shouted(name: str, content: bytes) -> tuple[str, bytes]:
        return name.upper() if name.startswith("code/") else name, content

    with raises(InputError, "torchscript.unsafe") as caught:
        load_torchscript(rewritten(scripted(Writes(), folder / "given.pt"), shouted))
    assert "calls save" in str(caught.value)
    assert not WRITTEN.exists()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda n, content: (n, b"\xff\xfe(" if n.startswith("code/") else content), "torchscript.unreadable", "torch"),
        (lambda n, content: (n.replace("constants.pkl", "other"), content), "torchscript.unreadable", "constants.pkl"),
        (
            lambda n, content: (n.replace("constants.pkl", "model.json"), content),
            "torchscript.old_format",
            "model.json",
        ),
    ],
)
def test_archive_gets_one_error_when_it_is_not_as_torch_writes_it(
    change: Change, code: str, message: str, folder: Path
) -> None:
    with raises(ArtifactError, code) as caught:
        load_torchscript(rewritten(scripted(Doubles(), folder / "given.pt"), change))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_archive_gets_one_error_when_a_byte_of_it_changed(folder: Path) -> None:
    module, refusals = Doubles(), list[str]()
    path = scripted(module, folder / "given.pt")
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            load_torchscript(path)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(text.startswith(f"{path}: ") for text in refusals)
    place = whole.index(module.layers[1].weight.detach().numpy().tobytes())
    path.write_bytes(whole[:place] + bytes(4) + whole[place + 4 :])
    with raises(ArtifactError, "torchscript.damaged") as caught:
        load_torchscript(path)
    assert re.search(r" given/data/\d ", str(caught.value))


def test_spec_is_read_from_the_archive_alone(spec: ModelSpec, folder: Path) -> None:
    assert embedded_spec(scripted(Doubles(), folder / "given.pt")) is None
    assert embedded_spec(scripted(Doubles(), folder / "ours.pt", spec.to_json())) == spec.to_json()
    os.truncate(folder / "ours.pt", 1000)
    with raises(ArtifactError, "torchscript.unreadable"):
        embedded_spec(folder / "ours.pt")


def test_runner_gives_one_error_when_answers_are_not_those_of_the_spec(spec: ModelSpec, folder: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    runner = open_artifact(scripted(Pair(), folder / "given.pt", spec.to_json()))
    with raises(ArtifactError, "artifact.tensor_mismatch"):
        runner.infer(torch.zeros(1, *spec.input.shape, dtype=torch.uint8).numpy())
