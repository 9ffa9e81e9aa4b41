"""Merging the detections of several finished runs into one run, from their shards: no detector, no GPU.

    runs ──> classes: which are the same ─┐
         ──> index: which images are the same ──> rows of an image ──> one fused row ──> shards of the new run

options    the options of `prelabel fuse`
inputs     the runs: which can be fused, and what the new run records of them
classes    one list of classes for all runs, and which run knows which class
index      where the rows of each image are, in every run
reading    rows by their position, from a cache of shards
images     the rows of one image become one row
job        the whole call: from runs to the manifest of the new run
"""
