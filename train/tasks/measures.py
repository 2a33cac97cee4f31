"""Collections of metrics, for tasks of plug-ins."""

from tritonkit.evaluation.tasks.metrics import HeadMeasures, Measures

__all__ = ["HeadMeasures", "Measures"]
