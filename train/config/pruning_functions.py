"""The names of the pruning functions. Imports nothing, for the options of a command."""

from __future__ import annotations

ZEROS = ("l1_unstructured", "random_unstructured", "ln_structured", "random_structured")
"""Functions of torch.nn.utils.prune: they set weights to zero, and the network keeps its shape."""
CHANNELS = "remove_channels"
"""Removes channels with torch-pruning: the network becomes smaller."""
