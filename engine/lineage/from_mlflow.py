"""What MLflow knows: runs, registered versions and their aliases. Reads only: where there is no
database none is made.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.lineage.evidence import Evidence, Statement
from engine.project.redaction import hide
from engine.registry.fetch import PURPOSE
from engine.registry.history import Entry, entries, evidence_stem
from engine.registry.registry import aliases_of
from engine.registry.version_description import about
from engine.tracking.mlflow_client import (
    Store,
    is_of_store,
    open_store,
    quick,
    reason,
    tracking_uri,
)

RUNS, PAGE = 5000, 500  # at most that many runs are read, so many at a time
COMMIT, DIRTY, BRANCH = (f"mlflow.source.git.{name}" for name in ("commit", "dirty", "branch"))


def registry_evidence(state: Path) -> Evidence:
    """All runs and versions. Whatever stops MLflow from answering becomes a sentence about what was
    not asked.
    """
    uri = tracking_uri(state)
    shown = hide(uri)
    if importlib.util.find_spec("mlflow") is None:
        return Evidence(
            unasked=["MLflow: not installed here: runs, versions and aliases are not known"]
        )
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return Evidence(
            unasked=[f"MLflow: there is no database at {uri}: runs and aliases are not known"]
        )
    try:
        with quick():
            store = open_store(state, reads_only=True)
            evidence = Evidence([*_versions(store, shown)])
            runs = list(_runs(store))
        evidence.statements += [each for run in runs[:RUNS] for each in _of_run(run, shown)]
        if len(runs) > RUNS:
            evidence.unasked.append(f"MLflow at {shown}: only the newest {RUNS} runs were read")
        return evidence
    except Exception as error:
        if not is_of_store(error) and not isinstance(error, (EngineError, ImportError)):
            raise
        return Evidence(
            unasked=[
                f"MLflow at {shown}: did not answer ({_short(error)}): runs and aliases are not "
                "known"
            ]
        )


def _short(error: Exception) -> str:
    """The cause alone of a connection that failed: around it stand the whole address and the number
    of tries.
    """
    cause = re.search(r"(?:Errno -?\d+\] |Caused by \w+\([^)]*: )([^'\")]+)", str(error))
    return (
        cause[1]
        if cause and "Max retries exceeded" in str(error)
        else f"{type(error).__name__}: {reason(error)}"
    )


def _versions(store: Store, uri: str) -> Iterator[Statement]:
    aliases: dict[str, dict[str, str]] = {}
    numbers: dict[str, list[str]] = {}  # model -> its versions
    for version in _paged(store.client.search_model_versions):
        name, number, tags = version.name, str(version.version), version.tags
        if name not in aliases:
            aliases[name] = aliases_of(store, name)
        numbers.setdefault(name, []).append(number)
        facts = {
            "aliases": ", ".join(
                sorted(alias for alias, of in aliases[name].items() if of == number)
            ),
            "weights_sha256": tags.get("weights_sha256"),
            "onnx_sha256": tags.get("onnx_sha256"),
            "class_hash": tags.get("class_hash"),
            "metric": f"{tags['metric']} = {tags['value']}"
            if tags.get("metric") and tags.get("value")
            else "",
            "measured on": tags.get("split"),
            "registered": _time(version.creation_timestamp),
            "run_id": version.run_id or tags.get("run_id"),
        }
        key, source = f"{name}/{number}", f"MLflow's registry at {uri}"
        yield Statement("version", key, source, facts)
        if facts["weights_sha256"]:
            about = {"data_digest": tags.get("data_digest"), "dvc_md5": tags.get("dvc.weights")}
            yield Statement("weights", facts["weights_sha256"], f"tags of {key} in {source}", about)
    for name, versions in numbers.items():
        history = entries(store, name)
        for number in versions:
            yield from _history(name, number, history, f"MLflow's registry at {uri}")


def _history(name: str, number: str, history: list[Entry], source: str) -> Iterator[Statement]:
    """A fact for each thing that happened to a version: when, by whom, why, on which evidence."""
    for entry in about(history, number):
        if entry.version == number:
            what, before = str(entry.what), f", before: version {entry.before}"
        else:
            what, before = "no champion since", f", {entry.what}"
            before += f": version {entry.version}" if entry.version else ": nobody is champion"
        text = f"{entry.at[:16].replace('T', ' ')} UTC" + (f" by {entry.by}" if entry.by else "")
        text += before if entry.moves and entry.before else ""
        text += f": {entry.why}" if entry.why else ""
        if entry.evidence and entry.version == number:
            text += f" (evidence: {evidence_stem(entry)}.md in its run)"
        yield Statement("version", f"{name}/{number}", source, {what: text})


def _runs(store: Store) -> Iterator[Any]:
    """The runs of all experiments, the newest first, at most one more than are read."""
    experiments = [each.experiment_id for each in store.client.search_experiments()]
    return islice(_paged(functools.partial(store.client.search_runs, experiments)), RUNS + 1)


def _paged(search: Callable[..., Any]) -> Iterator[Any]:
    """All that a search of MLflow's client finds."""
    token: str | None = ""
    while token is not None:
        page = search(max_results=PAGE, page_token=token or None)
        yield from page
        token = page.token or None


def _of_run(run: Any, uri: str) -> Iterator[Statement]:
    tags, info = run.data.tags, run.info
    source = f"MLflow run {info.run_id} at {uri}"
    facts = {
        "name": info.run_name,
        "status": info.status,
        "ended": tags.get("ended"),
        "started": _time(info.start_time),
        "code": _code(tags),
        "user": tags.get("mlflow.user"),
        "DVC experiment": tags.get("dvc.experiment"),
        "host": tags.get("host"),
        "versions": tags.get("versions"),
        "Prefect flow run": tags.get("prefect.flow_run_id"),
        "note": tags.get("origin"),
        "data_digest": tags.get("data_digest"),
    }
    if tags.get(PURPOSE):
        facts["measured"] = f"{tags.get('model')}/{tags.get('model_version')}"
    yield Statement("run", info.run_id, source, facts)
    weights, data = tags.get("weights_sha256"), tags.get("data_digest")
    if data:
        yield Statement(
            "data",
            data,
            source,
            {"name": tags.get("dataset"), "dvc_md5": tags.get("dvc.data/prepared")},
        )
    if weights:
        settings = {key: _value(value) for key, value in run.data.params.items()}
        about = {
            "data_digest": data,
            "settings": settings,
            "dvc_md5": tags.get("dvc.weights"),
            "made_in": info.run_id,
        }
        yield Statement("weights", weights, source, about)
        for tag, digest in tags.items():
            if tag.endswith("_sha256") and tag != "weights_sha256":
                format = tag.removesuffix("_sha256")
                yield Statement(
                    "file", digest, source, {"format": format, "weights_sha256": weights}
                )


def _code(tags: dict[str, str]) -> str:
    if not tags.get(COMMIT):
        return ""
    state = {
        "True": ", with changes that were not committed",
        "False": ", nothing changed since",
    }.get(tags.get(DIRTY, ""), "")
    branch = f" on {tags[BRANCH]}" if tags.get(BRANCH) else ""
    return f"commit {tags[COMMIT]}{branch}{state}"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return ""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).strftime(
        "%Y-%m-%d %H:%M UTC"
    )
