"""Measure memory, time to the first row and total time of `client infer` on 100,000 small images, against fixed limits.

The images are hard links to a thousand PNGs of 64 x 64 pixels, cut from the photographs of `make data`; the model is
timm's test_resnet at 160 x 160. Exits with 1 if the client uses more than 1 GB, its first row takes more than 10
seconds, or an image has no row.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import publish_network, random_photos, serve
from benchmarks.studies.study import Result, command, machine, run_process
from scripts.drills.fault_drill import job_rows

MAX_MIB, MAX_FIRST_ROW_S = 1000, 10.0
MODEL = "network"
_DISTINCT, _SIDE = 1000, 64


def write_pictures(folder: Path, count: int) -> Path:
    """Create a folder with `count` image files and return it."""
    (folder / "distinct").mkdir()
    (folder / "pictures").mkdir()
    for number, (photo, rng) in zip(range(min(count, _DISTINCT)), random_photos(), strict=False):
        left, top = rng.randint(0, photo.width - _SIDE), rng.randint(0, photo.height - _SIDE)
        photo.crop((left, top, left + _SIDE, top + _SIDE)).save(folder / "distinct" / f"{number}.png")
    for number in range(count):
        os.link(folder / "distinct" / f"{number % _DISTINCT}.png", folder / "pictures" / f"{number:06}.png")
    return folder / "pictures"


def measure(pictures: int = 100_000) -> Result:
    """Run the client once."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture_folder, output = write_pictures(folder, pictures), folder / "answers" / "answers.jsonl"
        output.parent.mkdir()
        publish_network(calibrated_network("test_resnet"), folder / "repository", MODEL, max_batch=32)
        first_row_s = 0.0

        def look_for_first_row() -> None:
            nonlocal first_row_s
            if not first_row_s and job_rows(output):
                first_row_s = round(time.monotonic() - started, 2)

        with serve(folder / "repository") as triton:
            client = [Path(sys.executable).with_name("client"), "infer", picture_folder, "--output", output]
            client += ["--model", MODEL, "--url", triton.options.grpc_url]
            started = time.monotonic()
            cost, _ = run_process(client, sample_s=0.05, while_running=look_for_first_row)
        with output.open(encoding="utf-8") as lines:
            rows = sum(1 for _ in lines)
    return Result(
        {
            "pictures": pictures,
            "rows": rows,
            "first_row_s": first_row_s,
            "seconds": round(cost.seconds, 1),
            "peak_mib": cost.peak_mib,
            "load_average": cost.load_average,
            **{name: value for name, value in machine().items() if name in ("cpu", "cores")},
        },
        {
            f"the client used {cost.peak_mib:.0f} MiB, at most {MAX_MIB}": cost.peak_mib <= MAX_MIB,
            f"first row after {first_row_s} s, at most {MAX_FIRST_ROW_S}": 0 < first_row_s <= MAX_FIRST_ROW_S,
            f"{rows} rows of {pictures} pictures": rows == pictures,
        },
    )


if __name__ == "__main__":
    command(measure)()
