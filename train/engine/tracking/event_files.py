"""TensorBoard's event files, whose errors do not end a training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from tritonkit.system.console import warn


class EventFileLogger(TensorBoardLogger):
    """Lightning's logger for TensorBoard; after the first error it warns, and writes nothing more."""

    _has_failed = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does."""
        self._write(partial(super().log_metrics, *args, **kwargs))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does."""
        self._write(partial(super().log_hyperparams, *args, **kwargs))

    def save(self) -> None:
        """Flush the event file."""
        self._write(super().save)

    def finalize(self, status: str) -> None:
        """Close the event file."""
        self._write(partial(super().finalize, status))

    def add_image(self, tag: str, path: Path, step: int) -> None:
        """Add an image file of the run; a file that was not drawn is left out."""
        if path.is_file():
            self._write(partial(self._add_image, tag, path, step))

    def _add_image(self, tag: str, path: Path, step: int) -> None:
        with Image.open(path) as image:
            self.experiment.add_image(tag, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def _write(self, write: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            write()
        except Exception as error:  # noqa: BLE001 - a tracker must not stop a long training
            self._has_failed = True
            cause = error.__cause__ or error  # Lightning wraps errors of the file in a sentence about the value
            warn(
                f"warning: TensorBoard's files in {self.log_dir} cannot be written ({type(cause).__name__}: {cause}); "
                "the training goes on without them"
            )
