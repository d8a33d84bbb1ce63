"""What lies in the project says: its reports, the prepared dataset, datasets in the cache, weights
and exports.

The readers of reports take a function that reads a file by its path, so that DVC's cache answers
like the workspace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.lineage.evidence import Evidence, Statement
from engine.lineage.from_files import file_statements
from engine.model_formats.table import is_model_file
from engine.tracking.run_metadata import DATASET, PREPARED
from engine.types import SPLITS

Read = Callable[
    [str], bytes | None
]  # path relative to the project -> content, None where there is none

MODEL_PLACES = (
    "weights/*",
    "export/*",
    "models/start/*",
    "runs/*/weights/best.pt",
    ".cache/models/*/model.*",
)


def workspace_evidence(root: Path, state: Path) -> Evidence:
    """Reports, datasets and models in the project's folders. state: where its caches are."""
    evidence = Evidence()

    def read(path: str) -> bytes | None:
        return _bytes(root / path)

    evidence.statements += data_statement(read, f"{PREPARED}/ in the workspace", {})
    evidence.statements += report_statements(read, "the reports in the workspace", {})
    for folder in sorted((state / ".cache" / "datasets").glob("*/")):
        name = folder.relative_to(state).as_posix()
        evidence.statements += data_statement(
            lambda path, at=folder: _bytes(at / Path(path).relative_to(PREPARED)), name, {}
        )
    for file in model_files(root, state):
        place = file.relative_to(root if file.is_relative_to(root) else state).as_posix()
        try:
            evidence.statements += file_statements(file, place)
        except CheckpointError as error:
            evidence.unasked.append(f"{place}: {error}")
    return evidence


def model_files(root: Path, state: Path) -> list[Path]:
    """The weights and exports where this project keeps such files, each once."""
    found = {path for base in (root, state) for place in MODEL_PLACES for path in base.glob(place)}
    return sorted(path for path in found if path.is_file() and is_model_file(path))


def data_statement(read: Read, known_from: str, extra: Mapping[str, Any]) -> list[Statement]:
    """The prepared dataset that `read` finds: its description, and the images in its manifests.
    Empty where there is none.
    """
    about = _json(read(DATASET.as_posix()))
    if not about.get("digest"):
        return []
    counts = about.get("counts") or {}
    facts = {
        "name": str(about.get("name", "")),
        "images": ", ".join(
            f"{split} {counts[split].get('images')}" for split in SPLITS if split in counts
        ),
        "classes": ", ".join(map(str, about.get("names") or ())),
        "class_hash": str(about.get("class_hash", "")),
        "source_digest": str(about.get("source_digest", "")),
        "licence": str(about.get("licence") or ""),
        **extra,
    }
    images: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for line in (read((PREPARED / f"{split}.jsonl").as_posix()) or b"").split(b"\n"):
            entry = _json(line)
            if entry.get("sha256"):
                images[str(entry["sha256"])] = (
                    split,
                    str(entry.get("name") or entry.get("image") or ""),
                )
    return [Statement("data", str(about["digest"]), known_from, facts, images)]


def report_statements(read: Read, known_from: str, extra: Mapping[str, Any]) -> list[Statement]:
    """What the reports of stages train, validate, export and register say, as far as `read` finds
    them.

    extra: further facts about the weights that stage train made.
    """
    return [
        *_trained(read, known_from, extra),
        *_validated(read, known_from),
        *_exported(read, known_from),
        *_registered(read, known_from),
    ]


def _trained(read: Read, known_from: str, extra: Mapping[str, Any]) -> list[Statement]:
    metrics, origin = (
        _json(read("reports/train/metrics.json")),
        _json(read("reports/train/origin.json")),
    )
    report = {**metrics, **origin}  # older reports have all of it in metrics.json
    weights = report.get("weights_sha256")
    if not weights:
        return []
    facts = {
        "network": Path(str(report.get("model", ""))).name if not report.get("start") else "",
        "data_digest": str(report.get("data_digest") or ""),
        "start": tuple(map(str, (report.get("start") or {}).values())),
        "metrics on val": {
            key: value for key, value in metrics.items() if key.startswith("metrics/")
        },
        "best_epoch": metrics.get("best_epoch"),
        **extra,
    }
    return [Statement("weights", str(weights), known_from, facts)]


def _validated(read: Read, known_from: str) -> list[Statement]:
    metrics, origin = (
        _json(read("reports/validate/metrics.json")),
        _json(read("reports/validate/origin.json")),
    )
    report = {**metrics, **origin}
    if not report.get("weights_sha256"):
        return []
    measured = {key: value for key, value in metrics.items() if key.startswith("metrics/")}
    return [
        Statement(
            "weights",
            str(report["weights_sha256"]),
            known_from,
            {f"metrics on {report.get('split', 'test')}": measured},
        )
    ]


def _exported(read: Read, known_from: str) -> list[Statement]:
    report = _json(read("reports/export.json"))
    files = report.get("files")
    if not report.get("weights_sha256") or not isinstance(files, dict):
        return []
    return [
        Statement(
            "file",
            str(file["sha256"]),
            known_from,
            {
                "format": name,
                "place": str(file.get("file", "")),
                "weights_sha256": str(report["weights_sha256"]),
            },
        )
        for name, file in files.items()
        if isinstance(file, dict) and file.get("sha256")
    ]


def _registered(read: Read, known_from: str) -> list[Statement]:
    report = _json(read("reports/registration.json"))
    if not report.get("version") or not report.get("weights_sha256"):
        return []
    facts = {
        "weights_sha256": str(report["weights_sha256"]),
        "onnx_sha256": str(report.get("onnx_sha256") or ""),
        "decision when registered": str(report.get("decision") or ""),
        "metric": f"{report['metric']} = {report['value']}" if report.get("metric") else "",
    }
    return [Statement("version", f"{report['model']}/{report['version']}", known_from, facts)]


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _json(content: bytes | None) -> dict[str, Any]:
    """The object in it; empty where there is none: a report that is damaged is no evidence."""
    try:
        values = json.loads(content or b"{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
