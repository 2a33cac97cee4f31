"""The workflow of the hosted CI, and the hooks of pre-commit, run what a contributor runs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.programs import ROOT


@pytest.fixture
def workflow() -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    return loaded


def test_workflow_runs_make_ci_on_each_pull_request(workflow: dict[Any, Any]) -> None:
    triggers = workflow[True]  # YAML reads the key `on` so
    assert {"push", "pull_request"} == set(triggers)
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == "make ci"
    assert job["timeout-minutes"] <= 120


def test_workflow_may_only_read(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}


def test_hooks_run_the_tools_of_the_project_without_a_network() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert (ROOT / hook["entry"].split()[0]).is_file(), "run `make setup`"
