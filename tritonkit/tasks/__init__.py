"""The tasks of a model, one module each. A new task needs a module here and in `train/tasks/`, and a `TASKS` entry."""

from __future__ import annotations

from tritonkit.errors import SpecError
from tritonkit.plugins import VARIABLE, registered_plugins
from tritonkit.spec import ModelSpec, TaskSpec
from tritonkit.tasks.base import Answer, Task
from tritonkit.tasks.embedding import Embedding
from tritonkit.tasks.heads import Heads
from tritonkit.tasks.multiclass import Multiclass
from tritonkit.tasks.multilabel import Multilabel
from tritonkit.tasks.objects import Objects
from tritonkit.tasks.search import Search
from tritonkit.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Multiclass, Multilabel, Embedding, Segmentation, Search, Objects)
}

__all__ = ["TASKS", "Answer", "Task", "task_for", "task_of"]


def task_for(task_spec: TaskSpec, output: str | None = None) -> Task:
    """Create the task of a task spec; `output` names its output if it is one of several heads.

    Raises SpecError for an unknown task or settings that the task does not accept.
    """
    if task_spec.task == Heads.name:
        return Heads(task_spec, {name: task_for(head, name) for name, head in task_spec.heads.items()})
    task_class = TASKS.get(task_spec.task) or registered_plugins("task").get(task_spec.task)
    if task_class is None:
        known = ", ".join([*TASKS, Heads.name, *registered_plugins("task")])
        raise SpecError(
            f"unknown task {task_spec.task!r}; known tasks: {known}. For your own task, name its module in {VARIABLE}",
            code="spec.unknown_task",
        )
    task: Task = task_class(task_spec, output)
    return task


def task_of(spec: ModelSpec) -> Task:
    """Create the task of a model. Raises SpecError if the spec's outputs are not those of the task."""
    task = task_for(spec)
    expected = task.outputs(spec.input)
    if spec.outputs != expected:
        raise SpecError(
            f"{spec.name}: a {spec.task} model with {len(spec.labels)} labels has the outputs "
            f"{', '.join(map(str, expected))}; its spec lists {', '.join(map(str, spec.outputs))}",
            code="spec.outputs_mismatch",
        )
    return task
