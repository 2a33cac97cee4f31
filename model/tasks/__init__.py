"""One module a task. A new task is a module here, one in `train/tasks/`, and an entry in this table."""

from __future__ import annotations

from model.errors import SpecError
from model.plugins import VARIABLE, plugged_in
from model.spec import ModelSpec, TaskSpec
from model.tasks.base import Answer, Task
from model.tasks.embedding import Embedding
from model.tasks.heads import Heads
from model.tasks.multiclass import Multiclass
from model.tasks.multilabel import Multilabel
from model.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {task.name: task for task in (Multiclass, Multilabel, Embedding, Segmentation)}

__all__ = ["TASKS", "Answer", "Task", "task_for", "task_of"]


def task_for(question: TaskSpec, output: str | None = None) -> Task:
    """The task that answers a question; `output` names its output where it is one of several heads.

    Raises SpecError for an unknown task or terms that it cannot be asked with.
    """
    if question.task == Heads.name:
        return Heads(question, {name: task_for(inner, name) for name, inner in question.heads.items()})
    task_class = TASKS.get(question.task) or plugged_in("task").get(question.task)
    if task_class is None:
        known = ", ".join([*TASKS, Heads.name, *plugged_in("task")])
        raise SpecError(
            f"there is no task {question.task!r}; there are {known}. For one of your own, name its module in {VARIABLE}"
        )
    task: Task = task_class(question, output)
    return task


def task_of(spec: ModelSpec) -> Task:
    """The task of a model. Raises SpecError when the spec's outputs are not those its task makes."""
    task = task_for(spec)
    expected = task.outputs(spec.input)
    if spec.outputs != expected:
        raise SpecError(
            f"{spec.name}: a {spec.task} model with {len(spec.labels)} labels has the outputs "
            f"{', '.join(map(str, expected))}; its spec says {', '.join(map(str, spec.outputs))}"
        )
    return task
