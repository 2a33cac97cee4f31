"""Reading, checking and splitting labelled data."""

from tritonkit.evaluation.provenance import PARTS_FILE
from tritonkit.evaluation.samples.part_names import PARTS

SPLITS = "splits"
"""The folder of the splits in a run folder."""
SUMMARY_FILE = PARTS_FILE
"""In the folder of the splits: counts, labels and the fingerprint and the provenance of the data."""
SPLIT_FILES = tuple(f"{SPLITS}/{part}.csv" for part in PARTS)
"""The tables of the splits, relative to the run folder and so to its checkpoints."""
