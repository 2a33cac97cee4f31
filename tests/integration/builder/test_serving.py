"""Serving options become Triton fields, or one error with all problems; a real Triton loads them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.config.serving_config import WARMUP_FILE, uses_golden_image, write_warmup
from builder.config.triton_config import config_for
from builder.repository.lint import check_repository
from builder.repository.publish import publication
from tests.serving import options_for, serving
from tritonkit.errors import ServerError
from tritonkit.export_options import ServingOptions
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.options import options_from
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.files import atomic_write
from tritonkit.triton.client import TritonClient
from tritonkit.triton.model_config import WARMUP_FOLDER, config_to_text, read_config
from tritonkit.triton.runner import TritonRunner


def serving_from(**options: Any) -> ServingOptions:
    """Read serving options of the command line."""
    return options_from(ServingOptions, options)


def republish(repository: Path, serving: ServingOptions) -> None:
    """Publish a copy of version 1 with other serving settings."""
    with publication(repository, "pets") as prepared:
        spec = ModelSpec.from_json((prepared.model / METADATA_KEY).read_text(), "x")
        for path in (prepared.model / "1").iterdir():
            (prepared.version_folder / path.name).hardlink_to(path)
        present = read_config(prepared.model)
        config = config_for(spec, ((spec.input,), spec.outputs), 8, prepared.version, present, serving=serving)
        with atomic_write(prepared.model / "config.pbtxt") as warmup:
            warmup.write_text(config_to_text(config))
        if uses_golden_image(config):
            write_warmup(prepared.model, Golden.load(prepared.version_folder / GOLDEN_FILE).images)


def test_check_reports_missing_or_short_warmup_files(tiny_repository: Path) -> None:
    republish(tiny_repository, serving_from(warmup=True))
    assert check_repository(tiny_repository) == []
    path = tiny_repository / "pets" / WARMUP_FOLDER / WARMUP_FILE
    path.write_bytes(b"short")
    (finding, *_) = check_repository(tiny_repository)
    assert finding.code == "repository.warmup"
    assert {"5", "3072,"} <= set(finding.message.split())
    path.unlink()
    (finding,) = check_repository(tiny_repository)
    assert (finding.severity, finding.path) == ("error", str(path))


def test_check_reports_a_policy_that_loads_nothing(tiny_repository: Path) -> None:
    republish(tiny_repository, serving_from(versions="8,9"))
    (finding,) = check_repository(tiny_repository)
    assert "loads none of the versions" in finding.message


def test_warmup_file_is_replaced_and_not_written_into(tiny_repository: Path, tmp_path: Path) -> None:
    model = tiny_repository / "pets"
    images = np.zeros((2, 32, 32, 3), np.uint8)
    write_warmup(model, images)
    (tmp_path / "linked").hardlink_to(model / WARMUP_FOLDER / WARMUP_FILE)
    write_warmup(model, images + 1)
    assert set((tmp_path / "linked").read_bytes()) == {0}


def test_triton_loads_and_answers_with_all_serving_options(tiny_repository: Path) -> None:
    """Warm-up, queue policy, two instances, version policy: read back from the server and from its statistics."""
    words = {"instances": 2, "kind": "cpu", "queue_delay_us": 200, "queue_timeout_ms": 500, "queue_size": 64}
    for _ in range(2):
        republish(tiny_repository, serving_from(**words, warmup=True, versions="1,3", response_cache=True))
    assert check_repository(tiny_repository) == []
    with serving(options_for(tiny_repository)) as triton, closing(TritonClient(triton.options.grpc_url)) as server:
        assert {row.version for row in server.models() if (row.name, row.state) == ("pets", "READY")} == {"1", "3"}
        warmed = server.statistics("pets", "3")["pets", "3"]
        assert (warmed.images, warmed.executions) == (18, 4), "each instance runs batch 1 and batch 8"
        config = server.config("pets")
        assert config["instance_group"][0]["count"] == 2
        assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 64
        golden = Golden.load(tiny_repository / "pets/1" / GOLDEN_FILE)
        answers = TritonRunner(server, "pets").infer(golden.images[:2])["probabilities"]
        np.testing.assert_allclose(answers, golden.outputs["probabilities"][:2], atol=1e-4)


def test_triton_does_not_load_when_a_warmup_file_is_missing(tiny_repository: Path) -> None:
    """So `builder check` reports it as an error."""
    republish(tiny_repository, serving_from(warmup=True))
    (tiny_repository / "pets" / WARMUP_FOLDER / WARMUP_FILE).unlink()
    with pytest.raises(ServerError, match=WARMUP_FILE), serving(options_for(tiny_repository)):
        pass
