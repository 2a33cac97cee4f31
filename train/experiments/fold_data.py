"""The tables of the folds of an experiment, written once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from train.config.loading import Config
from train.data import SUMMARY_FILE
from train.data.remote_images import fetch_missing_images
from train.data.splits import Splits
from train.tasks import TrainingTask
from tritonkit.evaluation.samples.sample import Sample


@dataclass(frozen=True)
class FoldData:
    """A folder with the splits of each fold, `1`, `2`, …, and with `test` if the data has that part."""

    path: Path

    @property
    def is_written(self) -> bool:
        """Whether the tables are complete."""
        return self.path.is_dir()

    @property
    def test(self) -> Path | None:
        """The part `test` of the data, which no fold is trained on; None if there is none."""
        return path if (path := self.path / "test").is_dir() else None

    def of(self, fold: int) -> Path:
        """The splits of a fold: `test` are its own images, `train` and `val` those of the other folds."""
        return self.path / str(fold)

    def fingerprint(self, fold: int) -> str:
        """Read the fingerprint of the data of a fold."""
        return str(json.loads((self.of(fold) / SUMMARY_FILE).read_bytes())["fingerprint"])

    def write(self, folds: Sequence[Splits], test: tuple[Sample, ...], task: TrainingTask) -> None:
        """Write all tables, then rename their folder into place. Another process may write the same ones meanwhile."""
        temporary = Path(mkdtemp(prefix=".data.", dir=self.path.parent))
        temporary.chmod(self.path.parent.stat().st_mode)
        try:
            for fold, splits in enumerate(folds, start=1):
                splits.save(temporary / str(fold), task)
            if test:
                first = folds[0]
                outside = Splits((), (), test, first.base, first.task_spec, first.fingerprint)
                outside.save(temporary / "test", task)
            temporary.rename(self.path)
        except OSError:
            if not self.is_written:
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def fetch_missing_images(self, config: Config) -> None:
        """Fetch remote images again that the cache has lost."""
        for part in (self.of(1), self.test):
            if part is not None:
                fetch_missing_images(part, config)
