"""Experiments: several runs of one configuration, each in a process of its own, that continue after a kill."""
