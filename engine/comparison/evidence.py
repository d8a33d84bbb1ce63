"""From two models and a split to what the gates are asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.comparison.latency import compare_latency
from engine.comparison.left_out import images_left_out, is_searched
from engine.comparison.measure import Measured, key_of, measure
from engine.comparison.models import Model
from engine.config import ValidateConfig
from engine.data.manifest import PreparedDataset
from engine.gates import Evidence, Subject
from engine.metrics import MatchTable
from engine.metrics.paired import AP, Paired, compare
from engine.metrics.reported import DECIDING

METRICS = DECIDING


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that was found out about two models, or about one that has no champion yet."""

    candidate: Measured
    champion: Measured | None
    paired: Paired
    tables: tuple[MatchTable, ...]  # of the images that count and the classes of both
    left_out: Mapping[str, Sequence[str]]  # reason -> images
    evidence: Evidence


def compare_models(
    candidate: Model,
    champion: Model | None,
    data: PreparedDataset,
    settings: ValidateConfig,
    metric: str = "metrics/mAP50-95",
    cache: Path | None = None,
    timed: bool = False,
    **about: Any,
) -> Comparison:
    """Measure both on the same images and compare.

    timed: measure the latency of both files as well. about: further fields of `Evidence`:
    data_changed, approved_by, decided_before, vacant.

    Raises:
        DataError: no images to compare on, or no class of the data that both know.
    """
    records = data.records(settings.split)
    measured = [measure(each, data, settings, cache) for each in (candidate, champion) if each]
    known = [set(each.names) for each in measured]
    common = [name for name in data.names if all(name in names for names in known)]
    left_out = images_left_out(data, settings.split, [each.model for each in measured])
    gone = {image for images in left_out.values() for image in images}
    images = [image for image in measured[0].table.images if image not in gone]
    groups = {key_of(record): record.group for record in records}
    tables = [each.table.subset(images, common) for each in measured]
    paired = compare(tables[1] if champion else None, tables[0], groups)
    chosen = METRICS[metric]
    latency = (
        compare_latency(champion, candidate, records, settings.device)
        if timed and champion
        else None
    )
    evidence = Evidence(
        _subject(measured[0]),
        _subject(measured[1]) if champion else None,
        paired.mean[chosen],
        tuple(paired.classes[AP].values()),
        paired.images,
        paired.groups,
        settings.split,
        new_classes=_without(measured[0].names, known[-1]) if champion else (),
        lost_classes=_without(measured[1].names, known[0]) if champion else (),
        left_out={reason: len(which) for reason, which in left_out.items()},
        latency=latency,
        searched=is_searched(data),
        unrecorded=tuple(each.model.name for each in measured if each.model.trained_on is None),
        **about,
    )
    return Comparison(
        measured[0], measured[1] if champion else None, paired, tuple(tables), left_out, evidence
    )


def _subject(measured: Measured) -> Subject:
    model = measured.model
    return Subject(model.name, model.digest, model.bytes, measured.names)


def _without(names: Sequence[str], others: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)
