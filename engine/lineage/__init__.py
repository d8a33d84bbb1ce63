"""`detectflow trace`: from a model to the images, code and settings it came from, and back.

Statements are collected from the workspace, DVC, MLflow and files, joined by content digests, and
printed; nothing is changed and nothing is recorded here.
May import `engine.registry`, `engine.tracking`, `engine.versioning` and below.
"""
