"""The types of rows and truths, for tasks of plug-ins."""

from tritonkit.evaluation.samples.sample import Row, Sample, Truth

__all__ = ["Row", "Sample", "Truth"]
