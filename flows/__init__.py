"""Prefect: in which order stages run, what is retried, on which schedule, and what its UI shows.

A task is a thin skin over a stage of `engine.stages`; paths, names and digests travel, no tensors.
Nothing in `engine` but the command line imports this package.
"""
