"""Metrics on images without some of the classes, compared with scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.train_configs import tiny_config
from train.engine.learning_check import learning_warnings
from train.tasks import TrainingTask, training_task
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.evaluation.tasks.embedding import RecallAtK
from tritonkit.spec import TaskSpec

LABELS = ("a", "b", "c", "d")


def task_of(name: str) -> TrainingTask:
    return training_task(tiny_config(task=name))


def figures(name: str, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    measures = task_of(name).metrics(TaskSpec(task=name, labels=LABELS), detailed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for part in (slice(0, 5), slice(5, None)):
            measures.update({"mask" if name == "segmentation" else "probabilities": outputs[part]}, targets[part])
        return {key: float(value) for key, value in measures.compute().items()}


def test_means_go_over_the_classes_there_are_when_some_are_absent() -> None:
    torch.manual_seed(0)
    targets = torch.randint(2, (40,)) * 2  # of a and c alone
    outputs = torch.softmax(torch.randn(40, 4) + 2 * torch.nn.functional.one_hot(targets, 4), dim=1)
    found, present = figures("multiclass", outputs, targets), (0, 2)
    for name, score in (("auroc", roc_auc_score), ("map", average_precision_score)):
        expected = np.mean([score(targets == number, outputs[:, number]) for number in present])
        assert found[name] == pytest.approx(expected, abs=1e-5)
    assert found["macro_f1"] == pytest.approx((found["f1/a"] + found["f1/c"]) / 2, abs=1e-6)
    assert np.isnan([found["f1/b"], found["f1/d"]]).all()


def test_auroc_cannot_be_measured_when_there_is_one_class() -> None:
    outputs = torch.softmax(torch.randn(10, 4), dim=1)
    found = figures("multiclass", outputs, torch.zeros(10, dtype=torch.long))
    assert np.isnan(found["auroc"])
    assert found["map"] == 1


def test_labels_without_a_picture_do_not_count_when_independent() -> None:
    torch.manual_seed(0)
    targets = torch.randint(2, (40, 4)).float()
    targets[:, 1], targets[:, 3] = 0, 1
    outputs = (targets * 0.3 + torch.rand(40, 4) * 0.7).clamp(0, 1)
    found = figures("multilabel", outputs, targets)
    assert np.isnan(found["f1/b"])
    areas = [roc_auc_score(targets[:, number], outputs[:, number]) for number in (0, 2)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-5)  # of d there is no picture without it
    precisions = [average_precision_score(targets[:, number], outputs[:, number]) for number in (0, 2, 3)]
    assert found["map"] == pytest.approx(np.mean(precisions), abs=1e-5)


def test_iou_is_over_the_classes_in_the_masks_when_some_are_absent() -> None:
    truth = torch.zeros(6, 8, 8, dtype=torch.uint8)
    truth[:, :4], truth[:, 7] = 2, 255
    found = figures("segmentation", truth.where(truth < 255, 0), truth)
    assert (found["iou"], found["dice"], found["iou/c"]) == (1, 1, 1)
    assert np.isnan([found["iou/b"], found["iou/d"]]).all()
    empty = figures("segmentation", truth * 0, truth * 0)
    assert np.isnan([empty["iou"], empty["dice"]]).all()


def test_recall_cannot_be_measured_when_no_class_has_two_pictures() -> None:
    recall = RecallAtK(1)
    recall.update(torch.eye(3), torch.arange(3), torch.zeros(3, dtype=torch.bool))
    assert recall.compute().isnan()
    assert task_of("embedding").monitor_problem(["a", "b"], []) == "no class of val has two images"
    assert task_of("embedding").monitor_problem(["a", "b"], ["c"]) == "no class of val is in base"
    assert task_of("embedding").monitor_problem(["a", "b"], ["b"]) is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"train_loss": 1.0, "val_accuracy": 0.4, "val_macro_f1": 0.3}], "no epoch is clearly better"),
        ([{"train_loss": 1.0, "val_accuracy": 0.9, "val_macro_f1": 0.9}], None),
        ([{"train_loss": 0.0, "val_accuracy": 0.9, "val_macro_f1": 0.9}], "the training loss is 0 "),
        ([{"train_loss": 1.5, "val_accuracy": 0.9, "val_macro_f1": 0.9}] * 2, "the training loss is 1.5000"),
    ],
)
def test_run_warns_when_it_may_have_learned_nothing(
    rows: list[dict[str, float]], expected: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    val = [Sample(tmp_path_factory.getbasetemp(), label) for label in LABELS[:3] * 12]
    found = learning_warnings(rows, task_of("multiclass"), val)
    assert [text[: len(expected or "")] for text in found] == ([expected] if expected else [])
