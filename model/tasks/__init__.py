"""One module a task. A new task is a module here, one in `train/tasks/`, and an entry in this table."""

from __future__ import annotations

from model.errors import SpecError
from model.spec import ModelSpec
from model.tasks.base import Answer, Task
from model.tasks.multiclass import Multiclass

TASKS: dict[str, Task] = {task.name: task for task in (Multiclass(),)}

__all__ = ["TASKS", "Answer", "Task", "task_of"]


def task_of(spec: ModelSpec) -> Task:
    """The task of a model. Raises SpecError when the spec's outputs are not those its task makes."""
    task = TASKS[spec.task]
    expected = task.outputs(spec.labels)
    if spec.outputs != expected:
        raise SpecError(
            f"{spec.name}: a {spec.task} model with {len(spec.labels)} labels has the outputs "
            f"{', '.join(map(str, expected))}; its spec says {', '.join(map(str, spec.outputs))}"
        )
    return task
