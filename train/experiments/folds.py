"""`train folds`: cross-validation, each fold a run in a process of its own, with out-of-fold predictions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from train.config.loading import Config
from train.config.sections import DataConfig
from train.data.folding import fold_seed, read_folds
from train.engine.run_folder import RunFolder
from train.experiments.child_run import ChildRun, fit_in_process
from train.experiments.fold_data import FoldData
from train.experiments.folder import ExperimentFolder
from train.experiments.out_of_fold import PREDICTIONS_FILE, FoldAnswers, join_predictions, write_rows
from train.tasks import TrainingTask, training_task
from tritonkit.checkpoint import read_spec
from tritonkit.errors import ConfigError, DataError
from tritonkit.evaluation.evaluate import LabelledImages
from tritonkit.plugins import load_plugins
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write

_KEYS_OF_SPLITS = ("labels", "mask_values", "ignore_index", "per_class", "sampling")
"""Keys of `data` that also hold for the tables of a fold."""


class FoldResult(Frozen):
    """The model of one fold, measured on the images of the fold."""

    fold: int
    images: int
    """Number of images of the fold, without the gallery."""
    seed: int
    checkpoint: Path
    metrics: dict[str, float | None]
    """On the fold; None for a metric that cannot be measured. `test_NAME` on the part `test` of the data."""
    warnings: tuple[str, ...] = ()
    """Signs that the run learned nothing."""


class Spread(Frozen):
    """The mean of a metric over folds."""

    mean: float
    std: float | None
    """The sample standard deviation, with divisor folds - 1; None for a single fold."""
    folds: int
    """Number of folds in which the metric can be measured."""


class FoldsResult(Frozen):
    """The folds of an experiment that are finished; with a summary once all are."""

    folder: Path
    count: int
    """Number of folds of the experiment."""
    monitor: str
    """The metric that selected the best epoch of each fold, on its part val."""
    folds: tuple[FoldResult, ...]
    missing: tuple[int, ...]
    """The folds that are not finished."""
    summary: dict[str, Spread] | None
    """By metric; None until all folds are finished."""
    predictions: Path | None
    """The out-of-fold predictions of all images; None until all folds are finished."""


def run_folds(
    config: Config,
    count: int,
    only: Sequence[int] = (),
    folder: Path | None = None,
    report: ProgressCallback = lambda step: None,
) -> FoldsResult:
    """Train and measure the folds, or continue an experiment; finished folds are kept.

    only: the folds to train now, in this order; empty for all. folder: default `<output>/<name>/folds`. report: called
    with each step. The seed of a fold depends on its number and `config.seed` alone.

    Raises ConfigError for another experiment's folder, DataError that lists all problems of the data, and the error of
    a training.
    """
    if outside := [fold for fold in only if not 1 <= fold <= count]:
        raise ConfigError(
            f"--only {outside[0]}: there are {count} folds; name some of 1 to {count}", code="folds.no_such_fold"
        )
    load_plugins(config.plugins)
    task = training_task(config)
    folder = config.output / config.name / "folds" if folder is None else folder
    data = FoldData(folder / "data")
    # Before anything is written, because the data may not be good for this number of folds.
    divided = None if data.is_written else read_folds(config.data, task, config.seed, count)
    with ExperimentFolder.open(folder, "folds", config, {"folds": count}):
        if not data.is_written:
            data.write(*(divided or read_folds(config.data, task, config.seed, count)), task)
        data.fetch_missing_images(config)
        runs = {}
        try:
            for fold in only or range(1, count + 1):
                if _result_file(folder, fold).is_file():
                    report(f"fold {fold}: finished before")
                else:
                    runs[fold] = _train(folder, config, data, fold, report, task)
            # Afterwards, so that this process holds no GPU while folds are trained.
            for fold, run in runs.items():
                _measure(folder, data, fold, run, report)
        except KeyboardInterrupt as stop:
            text = f"{str(stop) or 'stopped by Ctrl-C'}; the same command continues the folds"
            raise KeyboardInterrupt(text) from stop
        return _result(folder, task, count)


def _fold_folder(folder: Path, fold: int) -> Path:
    return folder / f"fold-{fold}"


def _result_file(folder: Path, fold: int) -> Path:
    """The figures of a fold; written last, so that a fold with this file is finished."""
    return _fold_folder(folder, fold) / "fold.json"


def _fold_config(config: Config, data: Path, fold: int) -> Config:
    """Return the configuration of one fold's run, which reads the tables of the fold."""
    kept = {key: getattr(config.data, key) for key in _KEYS_OF_SPLITS}
    return config.model_copy(
        update={"data": DataConfig(**kept, path=data, test_ratio=0), "seed": fold_seed(config.seed, fold)}
    )


def _train(
    folder: Path, config: Config, data: FoldData, fold: int, report: ProgressCallback, task: TrainingTask
) -> ChildRun:
    path, monitor = _fold_folder(folder, fold), f"val_{task.monitor}"

    def show(row: Mapping[str, float]) -> None:
        epoch = f"fold {fold}, epoch {row['epoch']:.0f} of {config.total_epochs}"
        report(f"{epoch}: {monitor} {row[monitor]:.4f}" if monitor in row else epoch)

    path.mkdir(exist_ok=True)
    report(f"fold {fold}: training")
    with RunFolder(path).lock():
        run = fit_in_process(_fold_config(config, data.of(fold).absolute(), fold), path, show)
    if RunFolder(run.run).fingerprint() != data.fingerprint(fold):
        raise DataError(
            f"{run.run}: images or labels have changed since the folds were made; start another experiment with "
            "--folder DIR",
            code="folds.data_changed",
        )
    return run


def _measure(folder: Path, data: FoldData, fold: int, run: ChildRun, report: ProgressCallback) -> None:
    """Measure the best checkpoint of a fold on its images, and write its predictions."""
    report(f"fold {fold}: predicting its images")
    spec = read_spec(run.checkpoint)
    with open_artifact(run.checkpoint) as runner:
        images = LabelledImages.read(data.of(fold), spec)
        answers = FoldAnswers(fold, images.task, spec)
        evaluation = images.evaluate(runner, answers.add)
        answers.save(_fold_folder(folder, fold) / PREDICTIONS_FILE)
        metrics = dict(evaluation.metrics)
        if data.test is not None:
            tested = LabelledImages.read(data.test, spec).evaluate(runner)
            metrics |= {f"test_{name}": value for name, value in tested.metrics.items()}
    result = FoldResult(
        fold=fold,
        images=evaluation.images,
        seed=spec.lineage.seed or 0,
        checkpoint=run.checkpoint,
        metrics=metrics,
        warnings=spec.lineage.warnings,
    )
    with atomic_write(_result_file(folder, fold)) as temporary:
        temporary.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _result(folder: Path, task: TrainingTask, count: int) -> FoldsResult:
    """Read the finished folds; once all are finished, write predictions.csv, folds.csv and summary.json."""
    files = {fold: _result_file(folder, fold) for fold in range(1, count + 1)}
    folds = tuple(_read_result(file) for file in files.values() if file.is_file())
    missing = tuple(fold for fold, file in files.items() if not file.is_file())
    predictions = folder / PREDICTIONS_FILE
    result = FoldsResult(
        folder=folder,
        count=count,
        monitor=task.monitor,
        folds=folds,
        missing=missing,
        summary=None if missing else summarize(folds),
        predictions=None if missing else predictions,
    )
    if result.summary is not None:
        join_predictions((_fold_folder(folder, fold) / PREDICTIONS_FILE for fold in files), predictions)
        _write_table(folder / "folds.csv", folds, result.summary)
        with atomic_write(folder / "summary.json") as temporary:
            temporary.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _read_result(file: Path) -> FoldResult:
    try:
        return FoldResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{file}: was not written by this version of `train folds`; delete it, and run the same command again",
            code="folds.broken_result",
        ) from error


def summarize(folds: Sequence[FoldResult]) -> dict[str, Spread]:
    """Return the mean and the standard deviation of each metric over the folds in which it can be measured."""
    spreads = {}
    for name in dict.fromkeys(name for fold in folds for name in fold.metrics):
        values = [value for fold in folds if (value := fold.metrics.get(name)) is not None]
        if values:
            std = round(statistics.stdev(values), 6) if len(values) > 1 else None
            spreads[name] = Spread(mean=round(statistics.fmean(values), 6), std=std, folds=len(values))
    return spreads


def _write_table(path: Path, folds: Sequence[FoldResult], summary: Mapping[str, Spread]) -> None:
    """Write a row for each fold, then `mean` and `std`; an empty cell for what cannot be measured."""

    def row(name: object, images: object, values: Mapping[str, float | None]) -> dict[str, str]:
        cells = {metric: "" if (value := values.get(metric)) is None else f"{value:.6f}" for metric in summary}
        return {"fold": str(name), "images": str(images), **cells}

    rows = [row(fold.fold, fold.images, fold.metrics) for fold in folds]
    rows.append(row("mean", "", {name: spread.mean for name, spread in summary.items()}))
    rows.append(row("std", "", {name: spread.std for name, spread in summary.items()}))
    write_rows(path, rows)
