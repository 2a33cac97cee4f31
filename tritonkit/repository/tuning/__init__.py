"""The settings of a configuration that a search may change, and the evidence of a finished search."""
