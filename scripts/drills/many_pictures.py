"""Measure memory, time to the first row and total time of `client infer` on 100,000 small images, against fixed limits.

python -m scripts.drills.many_pictures [--pictures 100000] [--output FILE.json]

The images are hard links to a thousand PNGs of 64 x 64 pixels, cut from the photographs of `make data`; the model is
timm's test_resnet at 160 x 160. Exits with 1 if the client uses more than 1 GB, its first row takes more than 10
seconds, or an image has no row.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.environment import read_environment
from benchmarks.studies.client_cost import SERVED, serve
from tritonkit.errors import InputError, TritonkitError
from tritonkit.system.files import atomic_write

MAX_MIB, MAX_FIRST_ROW_S = 1000, 10.0
_DISTINCT, _SIDE = 1000, 64
_PHOTOS = Path(__file__).parents[2] / ".cache" / "data" / "photos"
_SAMPLE_S = 0.05


def write_pictures(folder: Path, count: int) -> Path:
    """Create a folder with `count` image files and return it."""
    photographs = [Image.open(path).convert("RGB") for path in sorted(_PHOTOS.glob("*.jpg"))]
    if not photographs:
        raise InputError(f"{_PHOTOS}: contains no photographs; `make data` fetches them", code="data.no_photos")
    rng = random.Random(0)  # noqa: S311 - no secret
    (folder / "distinct").mkdir()
    (folder / "pictures").mkdir()
    for number in range(min(count, _DISTINCT)):
        photo = rng.choice(photographs)
        left, top = rng.randint(0, photo.width - _SIDE), rng.randint(0, photo.height - _SIDE)
        photo.crop((left, top, left + _SIDE, top + _SIDE)).save(folder / "distinct" / f"{number}.png")
    for number in range(count):
        os.link(folder / "distinct" / f"{number % _DISTINCT}.png", folder / "pictures" / f"{number:06}.png")
    return folder / "pictures"


def write_repository(folder: Path) -> Path:
    """Publish a tiny network with random weights."""
    from benchmarks.studies.calibration import calibrated_network
    from builder.export import export
    from builder.request import ExportRequest
    from builder.sources import source_from_checkpoint
    from tritonkit.networks.network import save_network

    save_network(folder / "tiny.safetensors", calibrated_network("test_resnet"))
    source = source_from_checkpoint(folder / "tiny.safetensors", name=SERVED)
    export(ExportRequest(source=source, repository=folder / "repository", max_batch=32))
    return folder / "repository"


def run_client(pictures: Path, address: str, output: Path) -> dict[str, float]:
    """Run the client and sample its memory and first row. Raises TritonkitError if it fails."""
    client = str(Path(sys.executable).with_name("client"))
    arguments = ["infer", str(pictures), "--model", SERVED, "--url", address, "--output", str(output)]
    started, first_s, peak_kib = time.monotonic(), 0.0, 0
    with tempfile.TemporaryFile() as output_file:
        process = subprocess.Popen([client, *arguments], stdout=output_file, stderr=output_file)
        while process.poll() is None:
            peak_kib = max(peak_kib, _high_water_kib(process.pid))
            if not first_s and any(b'"path"' in path.read_bytes() for path in output.parent.glob("*.jsonl*")):
                first_s = time.monotonic() - started
            time.sleep(_SAMPLE_S)
        if process.returncode:
            output_file.seek(0)
            raise TritonkitError(
                f"client infer failed:\n{output_file.read().decode(errors='replace')[-2000:]}",
                code="drill.command_failed",
            )
    return {
        "first_row_s": round(first_s, 2),
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": round(peak_kib / 1024, 1),
    }


def _high_water_kib(pid: int) -> int:
    """Return the peak resident memory of a process, as the kernel counts it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # the process ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def main() -> int:
    """Run the measurement, then print and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["TRITONKIT_STATE"] = str(folder / "state")
        pictures = write_pictures(folder, arguments.pictures)
        (folder / "answers").mkdir()
        output = folder / "answers" / "answers.jsonl"
        with serve(write_repository(folder), [SERVED]) as triton:
            measurement = run_client(pictures, triton.grpc, output)
        with output.open(encoding="utf-8") as lines:
            rows = sum(1 for _ in lines)
    load = round(psutil.getloadavg()[0], 2)
    environment = read_environment(triton="")
    record = {
        "pictures": arguments.pictures,
        "rows": rows,
        **measurement,
        "load_average": load,
        "cpu": environment.cpu,
        "cores": environment.cores,
    }
    print(json.dumps(record, indent=2))
    if arguments.output:
        with atomic_write(arguments.output) as path:
            path.write_text(json.dumps(record, indent=2) + "\n")
    passed = (
        measurement["peak_mib"] <= MAX_MIB
        and 0 < measurement["first_row_s"] <= MAX_FIRST_ROW_S
        and rows == arguments.pictures
    )
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
