"""What is recorded of a run besides its metrics: parameters, origin, data, versions.
Plain values, no MLflow.

Paths here are those of dvc.yaml. Nothing raises: what cannot be found out is left out.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import posixpath
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.errors import EngineError
from engine.files import read_object
from engine.project.environment import LOOPBACK, PREFECT_PORT
from engine.project.redaction import hide, without_user
from engine.settings.base import load_yaml
from engine.types import SPLITS
from engine.versioning.stage_inputs import flat

PREPARED = Path("data/prepared")
DATASET = PREPARED / "dataset.json"
WEIGHTS = Path("weights/best.pt")

DVC_PATHS = (PREPARED.as_posix(), WEIGHTS.parent.as_posix())
RAW = "data/raw"

# Groups of metrics. The UI orders its charts by group and name, and the reader is to see AP first
# (`metrics`, `test`), then losses (`train`, `val`), single numbers after curves, and what is seldom
# asked for last. Runs of earlier versions have the last two as `time` and `lr`.
BEST, EXPORT = "val best", "verify export"
TIME, RATES = "wall time", "warm-up and lr"

DIGEST_CHARACTERS = 16  # of a digest, for people; MLflow takes 36
NAME_CHARACTERS, PARAM_CHARACTERS = 250, 6000  # MLflow's limits
PLACES = {
    "project",
    "name",
    "data",
    "exist_ok",
    "resume",
}  # settings of the train stage that only say where
PACKAGES = (
    "detectflow",
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "mlflow",
    "dvc",
    "prefect",
)
GIT_TIMEOUT_S = 5.0
EXPERIMENT_VARIABLE = "DVC_EXP_NAME"  # set by `dvc exp run` for its stages


def legal_name(name: str) -> str:
    """`name` as MLflow accepts it for a parameter, a metric or a tag: other signs become `_`."""
    legal = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    return posixpath.normpath(legal.strip("/").replace("..", "__") or "_")[:NAME_CHARACTERS]


def flat_params(params: Params, resolved: Any = None) -> dict[str, str]:
    """Every setting as `section.key`, but for `flows`, which changes no result; `resolved`: the
    trainer's own configuration, with what it chose by itself.
    """
    sections = params.model_dump(mode="json", by_alias=True, exclude={"flows"})
    if resolved is not None:
        sections["train"] |= resolved.model_dump(mode="json")
    sections["train"] = {
        key: value for key, value in sections["train"].items() if key not in PLACES
    }
    return {
        legal_name(key): hide(in_text(value))[:PARAM_CHARACTERS]
        for key, value in flat("", sections)
    }


def in_text(value: Any) -> str:
    """A setting as it is shown and compared: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def dataset_metadata(root: Path) -> dict[str, Any]:
    """The prepared dataset's own description, `dataset.json`; empty where there is none."""
    return read_object(root / DATASET)


def split_digest(root: Path, split: str) -> str:
    """What images and boxes a split holds, as one digest: two metrics compare only where it is the
    same.
    """
    manifest = root / PREPARED / f"{split}.jsonl"
    try:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError:
        return str(dataset_metadata(root).get("digest", ""))


def images_digest(root: Path, split: str) -> str:
    """`split_digest`, shortened; empty where the split is not at hand."""
    manifest = root / PREPARED / f"{split}.jsonl"
    return split_digest(root, split)[:DIGEST_CHARACTERS] if manifest.is_file() else ""


def dataset_inputs(root: Path, params: Params) -> list[dict[str, Any]]:
    """The splits as MLflow's dataset inputs: name, digest, where from, counts, and what each is
    for.
    """
    about = dataset_metadata(root)
    digest, counts = str(about.get("digest", "")), about.get("counts") or {}
    if not digest:
        return []
    source = {"uri": PREPARED.as_posix(), "made_from": hide(params.data.source)}
    inputs = []
    for split in SPLITS:
        if split in counts:
            profile = {**counts[split], "classes": len(about.get("names") or ()), "digest": digest}
            inputs.append(
                {
                    "name": f"{about.get('name', 'dataset')} {split}",
                    "digest": digest[:DIGEST_CHARACTERS],
                    "source": json.dumps(source, ensure_ascii=False),
                    "profile": json.dumps(profile),
                    "context": split,
                }
            )
    return inputs


def run_name(root: Path, params: Params) -> str:
    """`digits yolov8n 160px`, in an experiment of DVC's `digits yolov8n 160px, quick-fox`."""
    h, w = params.train.input_size
    dataset = dataset_metadata(root).get("name") or Path(params.data.source).stem
    name = f"{dataset} {Path(params.train.model).stem} {h if h == w else f'{h}x{w}'}px"
    experiment = os.environ.get(EXPERIMENT_VARIABLE)
    return f"{name}, {experiment}" if experiment else name


def origin_tags(root: Path, params: Params) -> dict[str, str]:
    """Where a run comes from: code, data, machine, versions, flow."""
    about = dataset_metadata(root)
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": "detectflow",
        "mlflow.source.type": "LOCAL",
        "host": platform.node(),
        "versions": versions(),
        "dataset": str(about.get("name", "")),
        "data_digest": str(about.get("digest", "")),
        "class_hash": str(about.get("class_hash", "")),
        "classes": ", ".join(map(str, about.get("names") or ())),
        **git_tags(root, params),
        **dvc_tags(root),
        "dvc.experiment": os.environ.get(EXPERIMENT_VARIABLE, ""),
        **flow_tags(),
    }
    return {key: value for key, value in tags.items() if value}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return ""


def versions() -> str:
    """`python 3.11.7, detectflow 0.1.0, torch 2.11.0, ...`."""
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(f"{name} {version}" for name, version in found)


def git_tags(root: Path, params: Params) -> dict[str, str]:
    """Commit, branch, and whether files differ from it; nothing where `tracking.code` is none.
    `dvc.lock` does not count: every run writes it.
    """
    commit = params.tracking.code != "none" and git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    changed = git(root, "status", "--porcelain", "--", ".", ":(exclude)dvc.lock")
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": git(root, "rev-parse", "--abbrev-ref", "HEAD") or "",
        "mlflow.source.git.dirty": "" if changed is None else str(bool(changed)),
    }


def git(root: Path, *arguments: str, timeout_s: float = GIT_TIMEOUT_S) -> str | None:
    """What git prints about `root`, stripped; None: no git, no repository, it refused, or it did
    not end in time.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def dvc_tags(root: Path) -> dict[str, str]:
    """DVC's hashes of the raw data, the prepared data and the weights, as dvc.lock has them at this
    moment.
    """
    try:
        stages = load_yaml(root / "dvc.lock")["stages"]
        known = {
            each["path"]: each.get("md5", "")
            for stage in stages.values()
            for each in (*(stage.get("deps") or ()), *(stage.get("outs") or ()))
        }
    except (EngineError, TypeError, KeyError, AttributeError):
        return {}
    return {
        legal_name(f"dvc.{path}"): digest
        for path, digest in known.items()
        if digest and (path in DVC_PATHS or path == RAW or path.startswith(f"{RAW}/"))
    }


def flow_tags() -> dict[str, str]:
    """The Prefect flow run around this one, where the environment names it."""
    run_id = (
        os.environ.get("DETECTFLOW_FLOW_RUN_ID") or os.environ.get("PREFECT__FLOW_RUN_ID") or ""
    )
    return (
        {
            "prefect.flow_run_id": run_id,
            "prefect.flow_run_url": f"{prefect_ui()}/runs/flow-run/{run_id}",
        }
        if run_id
        else {}
    )


def prefect_ui() -> str:
    """Where Prefect's pages are: beside its API; where `detectflow ui` has them, if the API is a
    run's own temporary server's.
    """
    api = os.environ.get("PREFECT_API_URL", "")
    if not api or os.environ.get("DETECTFLOW_TEMPORARY_SERVER") == api:
        api = f"http://{LOOPBACK}:{PREFECT_PORT}"
    return without_user(
        os.environ.get("PREFECT_UI_URL") or api.rstrip("/").removesuffix("/api")
    ).rstrip("/")


def workspace_id(state: Path) -> str:
    """A name for this workspace on this machine, without its path."""
    return hashlib.sha256(f"{platform.node()}:{state}".encode()).hexdigest()[:DIGEST_CHARACTERS]


def metrics_of(summary: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """A stage's metrics under `prefix`: `metrics/mAP50` becomes `test/mAP50`. What is no number is
    left out.
    """
    return {
        legal_name(f"{prefix}/{key.removeprefix('metrics/').replace('/', '_')}"): float(value)
        for key, value in summary.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def epoch_record(row: Mapping[str, Any], started_ms: int) -> dict[str, Any]:
    """One row of results.csv of a training that began at `started_ms`, as a journal takes it."""
    return {
        "do": "metrics",
        "step": int(row["epoch"]),
        "at": started_ms + int(1000 * row.get("time_s", 0)),
        "values": epoch_metrics(row),
    }


def epoch_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """One row of results.csv by metric name; clock and learning rates in groups that come last."""
    numbers = {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and k != "epoch"}
    return {legal_name(_shown_as(key)): value for key, value in numbers.items()}


def _shown_as(column: str) -> str:
    """The metric that a column of results.csv is in MLflow."""
    if column == "time_s":
        return f"{TIME}/elapsed_s"
    return f"{RATES}/{column[3:]}" if column.startswith("lr/") else column
