"""DVC and git: which stages are up to date, what their inputs and code were, revisions, diffs.

The one place that drives DVC. Knows stages by their definition in dvc.yaml, not what they compute,
and no tracker. May import `engine.project` and below.
"""
