"""Publication is atomic: readers see the old model or the new one, whatever happens to the builder."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.repository.lint import check_repository
from builder.repository.publish import next_version
from tests.programs import ROOT, kill_started
from tritonkit.repository.staging import interrupted_exports, staging_folder
from tritonkit.triton.model_config import versions_of

PUBLISH_FOREVER = """
import shutil, sys
from pathlib import Path
from builder.repository.publish import publication
from tritonkit.triton.model_config import LAST_VERSION, config_to_text, read_config
from tritonkit.system.files import atomic_write
version, repository = Path(sys.argv[1]), Path(sys.argv[2])
print("started", flush=True)
while True:
    with publication(repository, version.parent.name) as prepared:
        shutil.copytree(version, prepared.version_folder, dirs_exist_ok=True)
        for old in range(1, prepared.version - 2):
            shutil.rmtree(prepared.model / str(old), ignore_errors=True)
        config = read_config(version.parent)
        config.parameters[LAST_VERSION].string_value = str(prepared.version)
        for name in ("model.json", "labels.txt"):
            with atomic_write(prepared.model / name) as beside:
                shutil.copy(version.parent / name, beside)
        with atomic_write(prepared.model / "config.pbtxt") as beside:
            beside.write_text(config_to_text(config))
"""

PUBLISH_ONCE = """
import sys
from pathlib import Path
from builder.repository.publish import publication
from tritonkit.errors import ArtifactError
try:
    with publication(Path(sys.argv[1]), "m") as prepared:
        print("at work")
    print("published", prepared.version)
except ArtifactError as error:
    print(error)
"""


def test_version_is_not_reused_when_the_newest_was_deleted(tiny_repository: Path) -> None:
    model = tiny_repository / "pets"
    assert versions_of(model) == [1]
    shutil.rmtree(model / "1")
    assert next_version(model) == 2


@pytest.mark.parametrize("mount", ["mount -t tmpfs none {}", "mount --bind {} {}"])
def test_publication_is_refused_when_the_repository_is_a_mount(tmp_path: Path, mount: str) -> None:
    repository = tmp_path / "r"
    repository.mkdir()
    commands = mount.format(repository, repository)
    shell = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if subprocess.run([*shell, commands], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of one's own here")
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(PUBLISH_ONCE)} {repository}"
    result = subprocess.run(
        [*shell, f"{commands} && {program} && {program}/inside"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    refused, *inside = result.stdout.splitlines()
    assert str(staging_folder(repository)) in refused, result.stderr
    assert f"{repository}: " in refused
    assert inside == ["at work", "published 1"]
    assert not staging_folder(repository).exists()


def test_repository_is_valid_after_a_builder_was_killed(tiny_repository: Path) -> None:
    """Kill a publishing builder at least twenty times, until some kills interrupt a publication."""
    rng = random.Random(0)
    template = tiny_repository.parent / "template" / "pets"
    shutil.copytree(tiny_repository / "pets", template)
    interrupted = kills = 0
    while kills < 20 or (kills < 200 and not (interrupted and next_version(tiny_repository / "pets") > 5)):
        kills += 1
        after_s = rng.uniform(0.005, 0.12) * max(1, kills / 20)  # a slow disk needs longer for a publication
        kill_started("-c", PUBLISH_FOREVER, template / "1", tiny_repository, after_s=after_s)
        interrupted += bool(interrupted_exports(tiny_repository))
        findings = check_repository(tiny_repository)
        assert not [finding for finding in findings if finding.severity == "error"], findings
    assert interrupted, "no kill hit the moment between preparing and publishing"
    assert next_version(tiny_repository / "pets") > 5
