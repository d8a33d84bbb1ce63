"""What is recorded about the latest model of a workspace: files of the stages, MLflow's history,
where it comes from.

Whatever is missing is empty here, whatever is damaged is empty and named in `notes`: a report must
not fail because a part of it is not there.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.results import numbered_from_one
from engine.data.manifest import COPIES_FILE
from engine.errors import EngineError
from engine.files import sha256_file
from engine.lineage.graph import trace
from engine.lineage.render import trace_values
from engine.metrics.curves import FALSE, TRUE, Matches, make_curves
from engine.metrics.match_table import RECALLS, MatchTable
from engine.metrics.paired import compare
from engine.project.environment import state_root
from engine.registry.image_list import IMAGE_LIST, Images, as_values, changes, read_images
from engine.registry.moves import history_of
from engine.report.pair import PAIR_FILE
from engine.types import SPLITS

log = logging.getLogger("detectflow")

REPORTS = Path("reports")
PREPARED = Path("data/prepared")
MODELS = Path(".cache/models")  # of the state's folder: fetched versions, by SHA-256 of their file
# What a section raises where a file holds other things than its stage writes.
UNEXPECTED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
GRID_STEP = 10  # of 1,001 confidences every so many is drawn
Values = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """Everything that page and card say, as plain values. Empty: not recorded."""

    root: Path
    registration: Values = field(default_factory=dict)  # reports/registration.json
    decision: Values = field(default_factory=dict)  # `engine.comparison.text.values_of`
    trained: Values = field(default_factory=dict)  # metrics.json and origin.json of stage train
    validated: Values = field(default_factory=dict)  # those of stage validate
    exported: Values = field(default_factory=dict)  # reports/export.json
    data: Values = field(default_factory=dict)  # reports/data.json
    dataset: Values = field(default_factory=dict)  # data/prepared/dataset.json
    operating: Values = field(default_factory=dict)  # reports/validate/operating_point.json
    errors: Values = field(default_factory=dict)  # reports/validate/errors.json
    epochs: tuple[dict[str, str], ...] = ()  # results.csv
    per_class: tuple[dict[str, str], ...] = ()  # per_class.csv of stage validate
    per_image: tuple[dict[str, str], ...] = ()  # per_image.csv
    confusion: Values = field(default_factory=dict)  # `labels` and `counts`, rows the true class
    own: Values = field(default_factory=dict)  # `Paired` of the model alone: intervals
    curves: Values = field(default_factory=dict)  # `precision_curves`
    changes: Values = field(default_factory=dict)  # `training_changes`
    data_changes: tuple[Values, ...] = ()  # `SplitChanges` since the champion's version
    came_back: Values = field(default_factory=dict)  # relabel, label -> images of tasks that count
    pair: Values = field(default_factory=dict)  # `pair_report` of the decision's two models
    copies: Values = field(default_factory=dict)  # kind of copy -> test images with one in train
    lineage: Values = field(default_factory=dict)  # `engine.lineage.render.trace_values`
    history: tuple[Values, ...] = ()  # entries of the registered model, the oldest first
    aliases: Values = field(default_factory=dict)  # alias -> version, as the registry says now
    asked_at: str = ""  # when the registry said so, ISO 8601
    notes: tuple[str, ...] = ()  # what is damaged, contradictory, or could not be asked

    @property
    def split(self) -> str:
        """Which images the metrics are of."""
        return str(self.validated.get("split") or self.decision.get("split") or "test")

    @property
    def model(self) -> str:
        return str(self.registration.get("model") or "")

    @property
    def version(self) -> str:
        return str(self.registration.get("version") or "")


class _Files:
    """Reads what is there; what is damaged is noted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []

    def values(self, *path: str | Path) -> Values:
        """The object in a JSON file."""
        found = self._read(Path(*path), lambda text: json.loads(text))
        if found is not None and not isinstance(found, dict):
            self.notes.append(f"{Path(*path).as_posix()}: expected a JSON object.")
        return found if isinstance(found, dict) else {}

    def rows(self, *path: str | Path) -> tuple[dict[str, str], ...]:
        """The rows of a CSV table."""
        found = self._read(Path(*path), lambda text: tuple(csv.DictReader(_open(text))))
        return found or ()

    def table(self, *path: str | Path) -> tuple[list[str], ...]:
        """A CSV table as it stands, its head first: columns may have equal names."""
        return self._read(Path(*path), lambda text: tuple(csv.reader(_open(text)))) or ()

    def lines(self, *path: str | Path) -> tuple[Values, ...]:
        """The objects of a file of JSON lines."""
        found = self._read(
            Path(*path), lambda text: tuple(json.loads(line) for line in text.split("\n") if line)
        )
        return tuple(each for each in found or () if isinstance(each, dict))

    def _read(self, path: Path, parse: Callable[[str], Any]) -> Any:
        try:
            return parse((self.root / path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, csv.Error) as error:
            self.notes.append(f"{path.as_posix()} could not be read: {error}.")
            return None

    def attempt(self, what: str, action: Callable[[], Any], otherwise: Any) -> Any:
        """What `action` gives; where it fails, `otherwise` and a note that says what is missing."""
        try:
            return action()
        except Exception as error:  # a report is not worth a traceback: it says what it lacks
            log.debug("report: %s", what, exc_info=True)
            shown = str(error) if isinstance(error, EngineError) else f"{error!r}"
            self.notes.append(f"{what}: {shown}")
            return otherwise


def _open(text: str) -> io.StringIO:
    return io.StringIO(text, newline="")


def collect(root: Path, ask: bool = True) -> Facts:
    """All that is recorded in the workspace `root`.

    ask: also MLflow, for the history of the model and where it comes from.
    """
    files = _Files(root)
    validate, train = REPORTS / "validate", REPORTS / "train"
    registration = files.values(REPORTS, "registration.json")
    decision = files.values(REPORTS, "decision.json")
    validated = {**files.values(validate, "origin.json"), **files.values(validate, "metrics.json")}
    trained = {**files.values(train, "origin.json"), **files.values(train, "metrics.json")}
    exported = files.values(REPORTS, "export.json")
    split = str(validated.get("split") or decision.get("split") or "test")
    manifests = {name: files.lines(PREPARED, f"{name}.jsonl") for name in SPLITS}
    table = _matches(files, validate)
    decision = files.attempt("Decision", lambda: _shaped(decision), {})
    digest = str((decision.get("champion") or {}).get("digest") or "")
    copies: dict[str, int] = {}
    for each in files.lines(PREPARED, COPIES_FILE):
        if each.get("split") == split:
            kind = str(each.get("kind", "copy"))
            copies[kind] = copies.get(kind, 0) + 1
    lineage: Values = {}
    history: tuple[Values, ...] = ()
    aliases: Values = {}
    if ask:
        lineage = files.attempt("Lineage", lambda: _lineage(root, exported, registration), {})
        history, aliases = files.attempt(
            "History of the registered model", lambda: _history(root, registration), ((), {})
        )
    models = state_root(root) / MODELS
    before, now = (
        files.attempt("Images of a version", lambda each=each: _images(models, each), None)
        for each in (decision.get("champion"), decision.get("candidate"))
    )
    return Facts(
        root=root,
        registration=registration,
        decision=decision,
        trained=trained,
        validated=validated,
        exported=exported,
        data=files.values(REPORTS, "data.json"),
        dataset=files.values(PREPARED, "dataset.json"),
        operating=files.values(validate, "operating_point.json"),
        errors=files.values(validate, "errors.json"),
        epochs=tuple(numbered_from_one(files.rows(train, "results.csv"))),
        per_class=files.rows(validate, "per_class.csv"),
        per_image=files.rows(validate, "per_image.csv"),
        confusion=_confusion(files, validate),
        own=files.attempt("Intervals", lambda: _intervals(table, manifests.get(split, ())), {}),
        curves=files.attempt("Curves", lambda: precision_curves(table) if table else {}, {}),
        changes=training_changes(manifests["train"], models / digest if digest else None),
        data_changes=tuple(as_values(changes(before, now))) if before and now else (),
        came_back=files.attempt("Tasks", lambda: tasks_done(root, before, now), {})
        if before and now
        else {},
        pair=_pair(files, decision),
        copies=copies,
        lineage=lineage,
        history=history,
        aliases=aliases,
        asked_at=datetime.now(UTC).isoformat(timespec="seconds") if aliases else "",
        notes=(*_contradictions(registration, trained, validated, exported), *files.notes),
    )


def _matches(files: _Files, folder: Path) -> MatchTable | None:
    path = files.root / folder / "matches.npz"
    if not path.is_file():
        return None
    return files.attempt("Matches", lambda: MatchTable.load(path), None)


def _confusion(files: _Files, folder: Path) -> Values:
    """`confusion_matrix.csv`: the head names the predicted classes, the first column the true."""
    rows = files.table(folder, "confusion_matrix.csv")
    labels = list(rows[0][1:]) if rows else []
    try:
        counts = [[int(cell) for cell in row[1:]] for row in rows[1:]]
    except ValueError:
        counts = []
    if not labels or [len(row) for row in counts] != [len(labels)] * len(labels):
        if rows:
            files.notes.append("confusion_matrix.csv is no square table of counts.")
        return {}
    return {"labels": labels, "counts": counts}


def _intervals(table: MatchTable | None, records: Sequence[Values]) -> Values:
    """Intervals of the model's own metrics. Groups are those of the manifest, by image name."""
    if table is None or not table.images or not table.names:
        return {}
    groups = {
        str(each.get("name") or Path(str(each.get("image", ""))).name): str(each["group"])
        for each in records
        if each.get("group")
    }
    return compare(None, table, groups).to_dict()


def precision_curves(table: MatchTable) -> Values:
    """Precision by recall at IoU .50: `recall` (101), `mean` (101) over classes, and the curve of
    each class that has boxes to find; COCO's envelope, of which the mean is AP50.
    """
    totals = table.truths.sum(0)
    classes: dict[str, list[float]] = {}
    for c in np.flatnonzero(totals):
        mine = np.flatnonzero(table.classes == c)
        mine = mine[np.argsort(-table.scores[mine], kind="stable")]
        outcome = table.outcome[mine, 0]
        tp, fp = np.cumsum(outcome == TRUE), np.cumsum(outcome == FALSE)
        curve = np.zeros(len(RECALLS))
        if len(mine):
            envelope = np.maximum.accumulate((tp / np.maximum(tp + fp, 1))[::-1])[::-1]
            at = np.searchsorted(tp / totals[c], RECALLS, side="left")
            reached = at < len(envelope)
            curve[reached] = envelope[at[reached]]
        classes[table.names[c]] = curve.tolist()
    if not classes:
        return {}
    mean = np.mean(list(classes.values()), axis=0).tolist()
    return {
        "recall": RECALLS.tolist(),
        "mean": mean,
        "classes": classes,
        "by_confidence": _by_confidence(table),
    }


def _by_confidence(table: MatchTable) -> Values:
    """Means over classes of precision, recall and F1 at IoU .50, over the confidence."""
    outcome = table.outcome[:, 0]
    matches = Matches(table.image, table.classes, table.scores, outcome, table.truths)
    found = make_curves(matches, np.zeros((len(table.names), len(RECALLS))))
    present = table.truths.sum(0) > 0
    every = slice(None, None, GRID_STEP)
    means = {
        name: getattr(found, name)[present].mean(0)[every].tolist()
        for name in ("precision", "recall", "f1")
    }
    best = float(found.confidence[found.best])
    return {"confidence": found.confidence[every].tolist(), **means, "best": best}


def training_changes(train: Sequence[Values], champion: Path | None) -> Values:
    """How many training images came and went since the champion was trained.

    champion: the folder in which its file and the digests of its training images were kept when it
    was measured.
    """
    if champion is None or not train:
        return {}
    try:
        before = set((champion / "training_images.txt").read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        return {}
    now = {str(each.get("sha256", "")) for each in train}
    return {"added": len(now - before), "removed": len(before - now), "kept": len(now & before)}


def _images(models: Path, subject: Values | None) -> Images | None:
    """The images of a version that was compared, kept beside its file; None where they were not."""
    digest = str((subject or {}).get("digest") or "")
    return read_images(models / digest / IMAGE_LIST) if digest else None


def _pair(files: _Files, decision: Values) -> Values:
    """What was gained and lost, where it is about the two models of the decision, and they know a
    class in common.
    """
    found = files.values(REPORTS, "compare", PAIR_FILE)
    names = [(decision.get(each) or {}).get("name") for each in ("champion", "candidate")]
    is_same = all(names) and names == [found.get("a"), found.get("b")]
    return found if is_same and found.get("classes") else {}


def tasks_done(root: Path, before: Images, now: Images) -> dict[str, int]:
    """How many images of `detectflow tasks` have come back: "relabel", with other labels than
    before; "label", that were not there before. By the lists in runs/.
    """
    old, new = (
        {sha256: labels for split in SPLITS for sha256, labels in side[split].items()}
        for side in (before, now)
    )
    asked: dict[str, set[str]] = {"relabel": set(), "label": set()}
    for kind, images in asked.items():
        for file in sorted((root / "runs").glob(f"*/{kind}/tasks.csv")):
            with open(file, newline="", encoding="utf-8") as stream:
                images.update(row.get("sha256") or "" for row in csv.DictReader(stream))
    return {
        "relabel": sum(i in old and i in new and old[i] != new[i] for i in asked["relabel"]),
        "label": sum(i in new and i not in old for i in asked["label"]),
    }


def _lineage(root: Path, exported: Values, registration: Values) -> Values:
    weights = registration.get("weights_sha256") or exported.get("weights_sha256")
    if not weights:
        file = root / "weights" / "best.pt"
        if not file.is_file():
            return {}
        weights = sha256_file(file)
    return trace_values(trace(str(weights), root))


SHAPE = {"champion": dict, "candidate": dict, "mean": dict, "classes": dict, "left_out": dict}
SHAPE |= {"findings": list, "new_classes": list, "lost_classes": list}


def _shaped(decision: Values) -> Values:
    """ValueError: parts of a decision are of another kind than those that are written."""
    for name, kind in SHAPE.items():
        if not isinstance(decision.get(name) or kind(), kind):
            raise ValueError(f"{name} is no {kind.__name__}")
    return decision


def _history(root: Path, registration: Values) -> tuple[tuple[Values, ...], Values]:
    if not registration.get("model"):
        return (), {}
    entries, aliases = history_of(str(registration["model"]), root)
    return tuple({**vars(entry), "what": entry.what.value} for entry in entries), aliases


def _contradictions(
    registration: Values, trained: Values, validated: Values, exported: Values
) -> list[str]:
    """Reports that are about other weights than the others: one of the stages has to run again."""
    known = {
        "train": trained.get("weights_sha256"),
        "validate": validated.get("weights_sha256"),
        "export": exported.get("weights_sha256"),
        "register": registration.get("weights_sha256"),
    }
    known = {stage: str(digest) for stage, digest in known.items() if digest}
    if len(set(known.values())) < 2:
        return []
    listed = ", ".join(f"{stage} {digest[:12]}" for stage, digest in known.items())
    return [
        f"The reports are about different weights ({listed}), so parts of this page do not belong "
        "together. Run all stages: detectflow run."
    ]


def number(value: Any) -> float | None:
    """A finite number, also from a CSV cell; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) and not isinstance(value, bool) else None


def lineage_nodes(lineage: Mapping[str, Any]) -> dict[str, list[Values]]:
    """The things of an answer of `trace`, by kind: the subject, then what it was made from."""
    found: dict[str, list[Values]] = {}
    waiting = [lineage.get("subject") or {}, *(lineage.get("made_from") or ())]
    while waiting:
        node = waiting.pop(0)
        if node.get("kind"):
            found.setdefault(str(node["kind"]), []).append(node)
        waiting += node.get("children") or ()
    return found


def node_facts(node: Mapping[str, Any]) -> Values:
    """name -> value of the facts of one thing; of several values the first."""
    found: Values = {}
    for fact in node.get("facts") or ():
        found.setdefault(str(fact.get("name")), fact.get("value"))
    return found
