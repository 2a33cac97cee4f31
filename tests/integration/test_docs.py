"""The shell blocks of README and docs are run, in order, in a copy of the project's folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
NEEDS = re.compile(r"^# needs (.+)$", re.MULTILINE)
NAMED = re.compile(r"^```(?:python|yaml)\n(# ([\w.]+\.(?:py|yaml))\n.*?)^```", re.MULTILINE | re.DOTALL)


def shell_blocks(page: Path) -> list[str]:
    return re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def runnable(page: Path) -> list[str]:
    return [block for block in shell_blocks(page) if not NEEDS.search(block)]


def files_of(page: Path) -> dict[str, str]:
    """Python and YAML blocks by the file that their first line names; blocks of one name are one file."""
    files: dict[str, str] = {}
    for text, name in NAMED.findall(page.read_text()):
        files[name] = files.get(name, "") + text
    return files


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a clone would have it, with the environments and data that `make setup data` made."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
        # Older than the environments, so that make does not install this copy into them.
        os.utime(folder / name, (0, 0))
    for made in (".venv", ".venv-triton", ".cache"):
        (folder / made).symlink_to(ROOT / made)
    return folder


@pytest.mark.drill
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
def test_shell_blocks_run(page: Path, workplace: Path, tmp_path: Path) -> None:
    script = "\n".join(["set -eux", *runnable(page)])
    for name, text in files_of(page).items():
        (workplace / name).write_text(text)
    # Pytest's own environment must not reach the commands: they are typed in a fresh shell.
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "TRITONKIT", "MAKE"))}
    clean["TRITONKIT_STATE"] = str(tmp_path)  # a bare `server down` must not stop the developer's own servers
    done = subprocess.run(["bash", "-c", script], cwd=workplace, env=clean, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    if page.name == "README.md":
        assert "ok   the cat is called" in done.stdout
        check_demo_page(workplace / "demo")


def check_demo_page(demo: Path) -> None:
    """It shows curves, matrix, photographs and digits, the test's figure, and links that lead somewhere."""
    index = re.sub(r"<script.*?</script>", "", (demo / "index.html").read_text(), flags=re.DOTALL)
    shown = [*(demo / "held_out").iterdir(), *(ROOT / ".cache" / "data" / "photos").iterdir()]
    assert index.count("<figure") == len(shown) + 2
    assert f"{json.loads((demo / 'test.json').read_text())['metrics']['accuracy']:.2%}" in index
    links = re.findall(r'<a href="([^"]+)"', index)
    assert {"model_repository/digits/1/verdict.html", "report.html"} <= set(links)
    assert not [link for link in links if not (demo / link).exists()]


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in shell_blocks(page) if NEEDS.search(block)],
    ids=lambda b: b.split()[-1],
)
def test_shell_block_runs_when_what_it_needs_is_there(block: str) -> None:
    needed = NEEDS.search(block)
    assert needed is not None
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip(f"needs {needed[1]}: no Docker engine answers here")
    if "GPU" in needed[1] and not shutil.which("nvidia-smi"):
        pytest.skip(f"needs {needed[1]}: no NVIDIA GPU here")
    subprocess.run(["bash", "-euc", block], cwd=ROOT, check=True, timeout=1800)


def test_links_between_pages_lead_somewhere() -> None:
    dead = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 250


def test_tests_named_in_the_systems_table_exist() -> None:
    named = set(re.findall(r"tests/[\w/]+\.py", (ROOT / "docs" / "systems.md").read_text()))
    assert named
    assert not [path for path in named if not (ROOT / path).is_file()]
