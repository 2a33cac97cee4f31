"""Test-time augmentation: what views are asked, and how their answers become one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fixture_types import Command


def test_command_tells_the_augmented_answer(command: Command, checkpoint: Path, photos: Path) -> None:
    plain = json.loads(command("client", "infer", photos, "--from", checkpoint, "--json").stdout)
    augmented = command("client", "infer", photos, "--from", checkpoint, "--tta", "flips", "--json")
    assert augmented.exit_code == 0, augmented.stderr
    rows = json.loads(augmented.stdout)["rows"]
    assert [row["path"] for row in rows] == [row["path"] for row in plain["rows"]]
    assert [row["probability"] for row in rows] != [row["probability"] for row in plain["rows"]]
    refused = command("client", "infer", photos, "--from", checkpoint, "--tta", "spin")
    assert refused.exit_code == 2
    assert "spin" in refused.stderr
    assert "flip, flips" in refused.stderr
