"""Which labelled images are worth a second look: those whose labels the model contradicts with
confidence, the surest first, then those in which it gets most wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from engine.datasets.label_errors import SURE, LabelError
from engine.error_analysis.error_types import find_errors
from engine.error_analysis.images import best_of_each_box, image_losses, label_errors
from engine.error_analysis.report import key_of
from engine.labelling.task import Task, TaskBox, can_be_seen
from engine.metrics.image_matches import Sample
from engine.types import ImageRecord


def relabel_tasks(
    samples: Sequence[Sample],
    records: Sequence[ImageRecord],
    names: Sequence[str],
    confidence: float,
    number: int,
) -> list[Task]:
    """At most `number` tasks.

    samples: truth and detections of the images of `records`. confidence: from which detections are
    shown and count.
    """
    record_of = {key_of(record): record for record in records}
    place = {" ".join(sample.key): index for index, sample in enumerate(samples)}
    losses = image_losses(find_errors(samples, names), confidence)
    errors: dict[int, list[LabelError]] = defaultdict(list)
    for error in label_errors(samples, names):
        errors[place[error.image]].append(error)
    contradicted = [index for index, mine in errors.items() if mine[0].score >= SURE]
    hard = [i for i in losses.hardest(len(samples)) if i not in set(contradicted)]
    tasks = []
    for index in [*contradicted, *hard][:number]:
        sample = samples[index]
        record = record_of.get(" ".join(sample.key))
        if record is None:
            continue
        sure = [error for error in errors[index] if error.score >= SURE]
        missed, false_alarms = losses.missed[index], losses.false_alarms[index]
        found = _found(sample, names, confidence)
        tasks.append(
            Task(
                record.file,
                sample.name,
                record.sha256,
                record.size,
                "label error" if sure else "hard",
                round(sure[0].score if sure else float(losses.loss[index]), 4),
                "; ".join(error.detail for error in sure)
                or f"{missed} missed, {false_alarms} false alarms",
                _labels(sample, names),
                found,
                _suggested(found, sure),
            )
        )
    return tasks


def _labels(sample: Sample, names: Sequence[str]) -> tuple[TaskBox, ...]:
    return tuple(
        TaskBox(names[c], tuple(box))
        for c, box in zip(sample.gt_classes.tolist(), sample.gt_boxes.tolist(), strict=True)
    )


def _found(sample: Sample, names: Sequence[str], confidence: float) -> tuple[TaskBox, ...]:
    best = best_of_each_box(sample, confidence)
    return tuple(
        TaskBox(names[c], tuple(box), score)
        for c, box, score in zip(
            best.classes.tolist(), best.boxes.tolist(), best.scores.tolist(), strict=True
        )
        if can_be_seen(box)
    )


def _suggested(found: Sequence[TaskBox], sure: Sequence[LabelError]) -> tuple[TaskBox, ...]:
    """What the model found where no label is; beside a label its box would only be in the way."""
    wanted: Mapping[tuple[float, ...], str] = {
        error.box: error.seen for error in sure if not error.labelled
    }
    return tuple(each for each in found if wanted.get(each.box) == each.name)
