"""Trains, labels the images of which the model is sure, and trains again, until nothing is gained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from train.autolabel.comparison import HoldoutComparison, Proportion
from train.autolabel.data import AutolabelData, read_autolabel_data, read_decisions
from train.autolabel.labelling import Labelling, Probabilities, predict
from train.autolabel.options import AutolabelOptions
from train.autolabel.outputs import write_outputs
from train.autolabel.result import AutolabelResult, Round
from train.autolabel.risk import ThresholdChoice, choose_threshold, images_needed, level_of_round
from train.autolabel.suspects import Suspect, check_cleanlab, find_suspects
from train.config.loading import Config
from train.config.sections import DataConfig
from train.engine.run_folder import RunFolder
from train.experiments.child_run import ChildRun, fit_in_process
from train.experiments.folder import ExperimentFolder
from tritonkit.errors import DataError
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.system.console import progress, warn
from tritonkit.system.files import atomic_write, file_sha256

LEAST_GAIN = 0.01
"""Rounds end when one accepts less than this share of the unlabelled images."""
PATIENCE = 2
"""Rounds end when this number of them did not improve the metric on val."""


def autolabel(config: Config, options: AutolabelOptions) -> AutolabelResult:
    """Label images in rounds, write `labels.csv` and `review.html`, and measure on the holdout whether it helped.

    An interrupted self-labelling continues when it is started again. Raises InputError before the first training for
    problems of configuration, data and options; then whatever a training raises.
    """
    if options.folds:
        check_cleanlab()
    decisions = {} if options.decisions is None else read_decisions(options.decisions)
    share = 0.0 if options.max_error is None else options.calibration
    data = read_autolabel_data(config, options.unlabelled, share, decisions)
    if options.max_error is not None:
        _check_calibration(len(data.calibration), options.max_error, options.confidence)
    settings = {
        "threshold": options.threshold,
        "max_error": options.max_error,
        "confidence": options.confidence,
        "calibration": share,
        "folds": options.folds,
        "round_epochs": options.round_epochs,
        "images": data.fingerprint,
        "decisions": None if options.decisions is None else file_sha256(options.decisions),
    }
    with ExperimentFolder.open(options.folder, "autolabel", config, settings) as folder, folder.lock():
        for note in data.notes:
            warn(note)
        return _AutolabelRun(config, options, data, folder.path).run()


def _check_calibration(size: int, max_error: float, confidence: float) -> None:
    least = images_needed(max_error, level_of_round(confidence, 1))
    if size < least:
        raise DataError(
            f"--max-error {max_error:g}: the calibration part has {size} images; even without a wrong label among "
            f"them {least} are needed to show this with confidence {confidence:g}. Label more images, or change "
            "--calibration, --max-error or --confidence",
            code="autolabel.calibration_too_small",
        )


class _AutolabelRun:
    """One self-labelling, from its first training to its files."""

    def __init__(self, config: Config, options: AutolabelOptions, data: AutolabelData, folder: Path) -> None:
        self.config, self.options, self.data, self.folder = config, options, data, folder
        splits = data.splits
        self.unlabelled = Labelling(data.unlabelled)
        self.calibration = self._labelling(data.calibration)
        self.holdout = self._labelling(splits.test)
        self.rounds: list[Round] = []
        self.notes: list[str] = []

    def _labelling(self, samples: Sequence[Sample]) -> Labelling:
        labels = self.data.labels
        return Labelling([sample.path for sample in samples], [labels.index(sample.truth) for sample in samples])

    def run(self) -> AutolabelResult:
        models = self._label()
        alone, labelled, chosen = self._final_models(models)
        comparison, used = None, self._used_round(models, labelled)
        if labelled is not None:
            comparison = HoldoutComparison.of(self._is_right(alone), self._is_right(labelled))
        suspects = self._suspects()
        result = AutolabelResult(
            folder=self.folder,
            checkpoint=chosen.checkpoint,
            rounds=tuple(self.rounds),
            unlabelled=len(self.unlabelled.paths),
            accepted=int((self.unlabelled.rounds > 0).sum()),
            error=self._held_out_error(),
            max_error=self.options.max_error,
            confidence=self.options.confidence if self.options.max_error is not None else None,
            used_rounds=used,
            comparison=comparison,
            conclusion=_conclusion(comparison, chosen is labelled),
            suspects=None if suspects is None else len(suspects),
            without_labels=self._labels_never_given(),
            notes=tuple(self.notes),
        )
        write_outputs(result, self.data, self.unlabelled, suspects or [], self.config)
        return result

    def _label(self) -> list[ChildRun]:
        """Train and accept in rounds. Return the models: the first knows only the given labels, and so on."""
        models = [self._fit("round-0", self._samples())]
        for number in range(1, self.options.rounds + 1):
            self._answer(number, models[-1])
            accepted = self._accept(number, len(self._samples()), models[-1])
            if not accepted:
                break
            best = max(range(len(models)), key=lambda index: self._score(models[index]))
            is_last = (
                number == self.options.rounds
                or accepted < LEAST_GAIN * len(self.unlabelled.paths)
                or len(models) - 1 - best >= PATIENCE
            )
            if is_last and self.data.calibration:
                break  # the final model learns from these labels, and from the calibration part
            models.append(self._fit(f"round-{number}", self._samples()))
            if is_last:
                break
        return models

    def _answer(self, number: int, model: ChildRun) -> None:
        """Let a model answer to all images that no round has accepted; keep the answers for a continued run."""
        file = self.folder / f"round-{number - 1}" / "answers.npz"
        groups = {"unlabelled": self.unlabelled, "calibration": self.calibration, "holdout": self.holdout}
        if file.is_file():
            with np.load(file) as kept:
                answers = {name: kept[name] for name in groups}
        else:
            answers = {
                name: predict(model.checkpoint, [group.paths[i] for i in group.pending], f"round {number}: {name}")
                for name, group in groups.items()
            }
            _save(file, answers)
        for name, group in groups.items():
            group.answer(answers[name])

    def _accept(self, number: int, trained_on: int, model: ChildRun) -> int:
        choice = self._choose(number)
        accepted = 0
        if choice.threshold is not None:
            accepted = self.unlabelled.accept(choice.threshold, number)
            for group in (self.calibration, self.holdout):
                group.accept(choice.threshold, number)
        elif self.options.max_error is not None and number == 1:
            self.notes.append(_nothing_accepted(self.options.max_error, choice.needed, len(self.calibration.paths)))
            warn(self.notes[-1])
        total = int((self.unlabelled.rounds > 0).sum())
        self.rounds.append(
            Round(
                number=number,
                trained_on=trained_on,
                val=self._score(model),
                threshold=choice.threshold,
                accepted=accepted,
                accepted_so_far=total,
                error=self._held_out_error(),
            )
        )
        at = "" if choice.threshold is None else f" from confidence {choice.threshold:.4f} on"
        warn(f"round {number}: {accepted:,} labels accepted{at}; {total:,} of {len(self.unlabelled.paths):,} so far")
        return accepted

    def _choose(self, number: int) -> ThresholdChoice:
        if self.options.max_error is None:
            return ThresholdChoice(self.options.threshold, None)
        pending, calibration = self.unlabelled.pending, self.calibration
        return choose_threshold(
            self.unlabelled.confidence[pending],
            calibration.confidence[calibration.pending],
            calibration.wrong()[calibration.pending],
            self.options.max_error,
            level_of_round(self.options.confidence, number),
            calibration.counts(),
        )

    def _final_models(self, models: Sequence[ChildRun]) -> tuple[ChildRun, ChildRun | None, ChildRun]:
        """Return the model of the given labels alone, the self-labelled one, and the one that is better on val.

        With a calibration part both train on it too: it has done its work, and its labels are given labels.
        """
        has_labels = bool((self.unlabelled.rounds > 0).any())
        labelled: ChildRun | None
        if self.data.calibration:
            alone = self._fit("labels-alone", (*self.data.splits.train, *self.data.calibration))
            everything = (*self._samples(), *self.data.calibration)
            # By its last round, because the same folder can be continued with more rounds or fewer.
            name = f"self-labelled-{self.unlabelled.rounds.max()}"
            labelled = self._fit(name, everything) if has_labels else None
        else:
            alone = models[0]
            labelled = max(models[1:], key=self._score, default=None)
        if labelled is None or self._score(labelled) < self._score(alone):
            return alone, labelled, alone
        return alone, labelled, labelled

    def _used_round(self, models: Sequence[ChildRun], labelled: ChildRun | None) -> int:
        """The last round whose labels the self-labelled model has learned."""
        if labelled is None:
            return 0
        return models.index(labelled) if labelled in models else int(self.unlabelled.rounds.max())

    def _samples(self) -> tuple[Sample, ...]:
        """The given labels of the training part, and all labels accepted so far."""
        group, labels = self.unlabelled, self.data.labels
        accepted = (Sample(group.paths[i], labels[group.labels[i]]) for i in np.flatnonzero(group.rounds))
        return (*self.data.splits.train, *accepted)

    def _fit(self, name: str, train: Sequence[Sample]) -> ChildRun:
        """Train on these images below a subfolder, in a process of its own."""
        folder, config = self.folder / name, self.config
        splits = self.data.splits_with(train)
        splits.save(folder / "data", self.data.task)
        # The surest labels are of few classes, which would crowd out the others: on Fashion-MNIST that cost 8 points.
        # Also without accepted labels, so that the compared models differ by these labels alone.
        per_class = config.data.per_class
        sampling: Literal["shuffled", "balanced"] = "balanced" if per_class is None else "shuffled"
        section = DataConfig(path=folder / "data", test_ratio=0, sampling=sampling, per_class=per_class)
        changes: dict[str, object] = {"data": section}
        labelled = {sample.path for sample in (*self.data.splits.train, *self.data.calibration)}
        if self.options.round_epochs is not None and any(sample.path not in labelled for sample in train):
            changes["epochs"] = self.options.round_epochs
        doing = f"{name}: training on {len(train):,} images"
        with progress(doing) as report:
            run = fit_in_process(
                config.model_copy(update=changes), folder, lambda row: report(f"{doing}, epoch {row['epoch']:.0f} done")
            )
        if RunFolder(run.run).fingerprint() != splits.fingerprint:
            raise DataError(
                f"{run.run}: this model was trained on other images or labels, which have changed since; start "
                "another self-labelling with --folder DIR",
                code="autolabel.data_changed",
            )
        return run

    def _score(self, model: ChildRun) -> float:
        return model.metrics[f"val_{self.data.task.monitor}"]

    def _is_right(self, model: ChildRun) -> np.ndarray:
        """[N] whether the model's answers to the holdout are right."""
        folder = model.run.parents[1]  # of this training
        file = folder / "holdout.npz"
        if not file.is_file():
            _save(file, {"probabilities": predict(model.checkpoint, self.holdout.paths, f"holdout, {folder.name}")})
        with np.load(file) as kept:
            right: np.ndarray = kept["probabilities"].argmax(axis=1) == self.holdout.truths
        return right

    def _held_out_error(self) -> Proportion:
        """The error of the labels that the rounds would have accepted on the holdout."""
        counts = self.holdout.counts()
        return Proportion.of(counts.wrong, counts.accepted)

    def _suspects(self) -> list[Suspect] | None:
        def answer(name: str, train: tuple[Sample, ...], samples: tuple[Sample, ...]) -> Probabilities:
            model = self._fit(name, train)
            return predict(model.checkpoint, [sample.path for sample in samples], name)

        return find_suspects(self.data, answer, self.options.folds) if self.options.folds else None

    def _labels_never_given(self) -> tuple[str, ...]:
        used = set(self.unlabelled.labels[self.unlabelled.rounds > 0].tolist())
        return () if not used else tuple(label for number, label in enumerate(self.data.labels) if number not in used)


def _save(file: Path, arrays: dict[str, Any]) -> None:
    with atomic_write(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)


def _nothing_accepted(max_error: float, needed: int | None, size: int) -> str:
    how = (
        "the labels of which the model is most sure are wrong more often than that; more epochs, more labelled images "
        "to train on, or another network may help"
        if needed is None
        else f"about {needed:,} calibration images would show it, if their error stays as it is"
    )
    return f"no threshold keeps the error below {max_error:g} on {size:,} calibration images: {how}"


def _conclusion(comparison: HoldoutComparison | None, is_chosen: bool) -> str:
    if comparison is None:
        return (
            "No label was accepted, so nothing was gained: the checkpoint is that of the given labels alone. A model "
            "that is trained longer is surer: raise epochs, or accept more with another --threshold or --max-error."
        )
    named = "" if is_chosen else " The validation part prefers the model of the given labels alone."
    return comparison.sentence() + named
