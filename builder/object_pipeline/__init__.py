"""Publish two models as one: a segmenter, whose objects are cut out, and a classifier."""
