"""Questions to networks: one of each task."""

from __future__ import annotations

from tritonkit.spec import TaskSpec

PETS = TaskSpec(task="multiclass", labels=("cat", "dog", "bird"))
COLOURS = TaskSpec(task="multiclass", labels=("red", "green", "blue"))
TAGS = TaskSpec(task="multilabel", labels=("old", "new", "rare"))
VECTOR = TaskSpec(task="embedding", embedding_size=8)
COLOUR_AND_MARKS = TaskSpec(
    task="heads",
    heads={
        "colour": TaskSpec(task="multiclass", labels=("red", "blue")),
        "marks": TaskSpec(task="multilabel", labels=("dot", "line", "edge")),
    },
)
TASK_SPECS = {
    "multiclass": PETS,
    "multilabel": TaskSpec(task="multilabel", labels=("sky", "grass"), thresholds={"sky": 0.4}),
    "embedding": VECTOR,
    "segmentation": TaskSpec(task="segmentation", labels=("background", "stamp")),
    "heads": TaskSpec(task="heads", heads={"kind": PETS, "vector": VECTOR}),
}
