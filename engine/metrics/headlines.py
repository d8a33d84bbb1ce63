"""The headline metrics as people read them: names without their group, the primary one first.

Texts only: what is measured and kept is `reported.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.metrics import reported


def short_name(key: str) -> str:
    """`metrics/mAP50-95` -> `mAP50-95`."""
    return key.removeprefix(reported.GROUP)


def headline_names() -> tuple[str, ...]:
    """The names of the headline metrics: the primary one first, else in the order of the table."""
    names = [metric.name for metric in reported.METRICS if metric.headline]
    return tuple(sorted(names, key=lambda name: name != short_name(reported.PRIMARY)))


def headlines(metrics: Mapping[str, Any], prefix: str = reported.GROUP) -> dict[str, Any]:
    """Name -> value of the headline metrics that `metrics` has under `prefix` (of MLflow for
    example "test/"), in that order; without those that could not be measured.
    """
    found = {name: metrics.get(prefix + name) for name in headline_names()}
    return {name: value for name, value in found.items() if value is not None}
