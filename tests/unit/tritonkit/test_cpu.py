"""The CPU's int8 arithmetic, and the warning if it differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonkit.repository.compatibility import int8_findings
from tritonkit.system.cpu import adds_int8_exactly

X86 = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu sse4_1 avx2 {}\nbugs\t\t: spectre_v1\n"


@pytest.mark.parametrize(
    ("text", "exactly"),
    [
        (X86.format("avx512f avx512_vnni"), True),
        (X86.format("avx_vnni"), True),
        (X86.format("avx512f avx512bw"), False),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", True),
        ("processor\t: 0\n", None),
    ],
)
def test_cpu_is_said_to_add_int8_exactly_when_its_flags_say_so(text: str, exactly: bool | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert adds_int8_exactly(tmp_path / "cpuinfo") is exactly


def test_nothing_is_known_of_a_cpu_when_the_system_does_not_tell(tmp_path: Path) -> None:
    assert adds_int8_exactly(tmp_path / "absent") is None


def test_int8_is_doubted_when_it_was_proven_on_another_kind_of_cpu() -> None:
    artifact = Path("repository/cats/1/model.onnx")
    (finding,) = int8_findings(artifact, verified_exactly=True, serves_exactly=False)
    assert finding.severity == "warning"
    assert finding.code == "artifact.int8_cpu"
    assert f"builder verify {artifact}" in finding.fix
    assert int8_findings(artifact, verified_exactly=False, serves_exactly=True)
    for verified_exactly, serves_exactly in ((True, True), (False, False), (None, False), (True, None)):
        assert not int8_findings(artifact, verified_exactly, serves_exactly)
