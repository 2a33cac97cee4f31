"""The benchmark of the client: its pictures, its ratios, and what it starts its processes with."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.studies.client_cost import (
    CLIENT_INFER,
    IN_PROCESS,
    PLAIN,
    ClientCost,
    in_child,
    run_in_process,
    summarize,
    write_pictures,
)


def cost(wall_s: float, client_s: float, server_s: float) -> ClientCost:
    return ClientCost(wall_s=wall_s, client_cpu_s=client_s, server_cpu_s=server_s, load_average=0)


def test_pictures_differ_and_are_kept_when_asked_for_again(photos: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, 6, photos)
    pictures = sorted(folder.iterdir())
    assert len({path.read_bytes() for path in pictures}) == 6
    for path in pictures:
        width, height = Image.open(path).size
        assert (470 <= width <= 530, 380 <= height <= 420) == (True, True)
    assert write_pictures(tmp_path, 6, photos / "not asked") == folder


def test_ratios_are_those_of_the_medians() -> None:
    costs = {
        IN_PROCESS: [cost(1, 10, 0), cost(1, 100, 0), cost(1, 9, 0)],
        CLIENT_INFER: [cost(5, 4, 7), cost(50, 40, 70), cost(4, 3, 7)],
        PLAIN: [cost(15, 5, 9), cost(15, 5, 9), cost(15, 5, 9)],
    }
    assert list(summarize(costs)["ratio"].values()) == pytest.approx([1.1, 3.0])


def test_loop_in_one_process_tells_what_it_took(exported_once: Path, photos: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, 6, photos)
    cost = in_child(run_in_process, exported_once / "pets" / "1" / "model.onnx", folder)
    assert cost.wall_s > 0
    assert cost.client_cpu_s > 0
    assert cost.best.startswith("batch ")
