"""What DVC recorded: the stages in dvc.lock, now and in every commit, and in the run cache; their
outputs from DVC's cache.

Plain files are read (dvc.lock, the cache), and git is asked; DVC itself is not needed. Nothing is
fetched or checked out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from configparser import ConfigParser, Error
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from engine.lineage.evidence import BY_MD5, Evidence, Statement
from engine.lineage.from_workspace import Read, data_statement, report_statements
from engine.settings.yaml_io import Refusing
from engine.tracking.run_metadata import PREPARED, git

COMMITS = 500  # the newest ones that changed dvc.lock
GIT_TIMEOUT_S = 60.0
REPORTS = ("reports/export.json", "reports/registration.json")


class LockLoader(Refusing, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """The fast one: the other takes 30 ms for a lock."""


@dataclass
class Recorded:
    """One stage as DVC recorded it."""

    stage: Mapping[str, Any]  # deps, params, outs, as in dvc.lock
    known_from: str
    commit: str = ""  # "2af81c0 2026-11-24 subject", the first that has it


def history_evidence(root: Path, state: Path) -> Evidence:
    """Everything that dvc.lock, its versions in git and DVC's run cache say. state: where DVC's
    cache is, see state_root.
    """
    evidence = Evidence()
    cache = cache_folder(state)
    recorded = [*_of_commits(root, evidence.unasked), *_of_workspace(root), *_of_run_cache(cache)]
    if not recorded:
        evidence.unasked.append(
            f"DVC: nothing is recorded, neither in {root / 'dvc.lock'} nor in {cache}"
        )
    lost = 0
    for each in _merged(recorded):
        statements, whole = _statements(each, cache)
        evidence.statements += statements
        lost += not whole
    if lost:
        evidence.unasked.append(
            f"DVC: {lost} recorded results are not in the cache {cache}, so what they hold is not "
            "known here: `dvc fetch --all-commits` brings them from the remote"
        )
    return evidence


def cache_folder(state: Path) -> Path:
    """DVC's cache: `cache.dir` of its configuration, seen from `.dvc`, else `.dvc/cache`."""
    place = "cache"
    for name in ("config", "config.local"):
        parser = ConfigParser(interpolation=None)
        try:
            parser.read_string((state / ".dvc" / name).read_text(encoding="utf-8"))
        except (OSError, Error, UnicodeDecodeError):
            continue
        place = parser.get("cache", "dir", fallback=place).strip("\"'")
    return (state / ".dvc" / place).resolve()


def _of_workspace(root: Path) -> list[Recorded]:
    try:
        content = (root / "dvc.lock").read_bytes()
    except OSError:
        return []
    return [Recorded(stage, "dvc.lock of the workspace") for stage in _stages(content)]


def _of_run_cache(cache: Path) -> Iterator[Recorded]:
    for file in sorted((cache / "runs").glob("*/*/*")):
        try:
            stage = yaml.load(file.read_bytes(), LockLoader)
        except (OSError, yaml.YAMLError):
            continue
        if isinstance(stage, dict):
            yield Recorded(stage, "DVC's run cache")


def _of_commits(root: Path, unasked: list[str]) -> list[Recorded]:
    """The stages of every commit that changed dvc.lock, the oldest first."""
    newest = f"--max-count={COMMITS + 1}"
    log = _git(root, "log", "--all", newest, "--format=%H %cs %s", "--", "dvc.lock")
    if log is None:
        unasked.append(
            f"git: {root} is no repository, or git is not installed: which commit recorded a "
            "result is not known"
        )
        return []
    lines = log.splitlines()
    if len(lines) > COMMITS:
        unasked.append(f"git: only the newest {COMMITS} commits that changed dvc.lock were read")
    found = []
    for line in reversed(lines[:COMMITS]):
        content = _git(root, "show", f"{line.split()[0]}:./dvc.lock")
        if content is not None:  # else: the commit removed it
            found += [Recorded(stage, "dvc.lock in git", line) for stage in _stages(content)]
    return found


def _git(root: Path, *arguments: str) -> str | None:
    return git(root, "-c", "log.showSignature=false", *arguments, timeout_s=GIT_TIMEOUT_S)


def _stages(content: bytes | str) -> list[Mapping[str, Any]]:
    try:
        stages = yaml.load(content, LockLoader)["stages"]
        return [stage for stage in stages.values() if isinstance(stage, dict)]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []


def _merged(recorded: list[Recorded]) -> list[Recorded]:
    """Every result once: from the first commit that has it, else from where it is known first."""
    found: dict[str, Recorded] = {}
    for each in recorded:
        key = json.dumps(
            [each.stage.get(part) for part in ("deps", "params", "outs")],
            sort_keys=True,
            default=str,
        )
        found.setdefault(key, each)
    return list(found.values())


def _statements(recorded: Recorded, cache: Path) -> tuple[list[Statement], bool]:
    """What the outputs of a stage say, and whether all that is wanted was in the cache."""
    outs = {out["path"]: str(out.get("md5", "")) for out in recorded.stage.get("outs") or []}
    read = _reader(outs, cache)
    extra: dict[str, Any] = {"recorded by commit": recorded.commit}
    if PREPARED.as_posix() in outs:
        extra["dvc_md5"] = outs[PREPARED.as_posix()]
        extra["params.yaml"] = _params(recorded.stage, "data")
        found = data_statement(read, recorded.known_from, extra)
        return _or_by_md5(found, "data", recorded, extra)
    if "weights" in outs:
        extra |= {
            "dvc_md5": outs["weights"],
            "params.yaml": _params(recorded.stage, "train"),
            "code hash": _code(recorded.stage),
        }
    found = report_statements(read, recorded.known_from, extra)
    return (
        _or_by_md5(found, "weights", recorded, extra)
        if "weights" in outs
        else (found, bool(found) or outs.keys().isdisjoint(REPORTS))
    )


def _or_by_md5(
    found: list[Statement], kind: str, recorded: Recorded, extra: dict[str, Any]
) -> tuple[list[Statement], bool]:
    """Where the cache does not say what a result is, somebody else may know the digest that belongs
    to DVC's hash.
    """
    if found:
        return found, True
    md5 = extra.pop("dvc_md5")
    return [Statement(kind, f"{BY_MD5}{md5}", recorded.known_from, extra)], False


def _params(stage: Mapping[str, Any], section: str) -> dict[str, Any]:
    values = ((stage.get("params") or {}).get("params.yaml") or {}).get(section)
    if not isinstance(values, dict):
        return {}
    plain = json.loads(json.dumps(values, default=str))  # YAML knows dates, JSON does not
    return {f"{section}.{key}": value for key, value in plain.items()}


def _code(stage: Mapping[str, Any]) -> str:
    """One hash over the code that the stage uses: two results with the same one were made by the
    same code.
    """
    deps = sorted(
        (dep["path"], str(dep.get("md5")))
        for dep in stage.get("deps") or []
        if dep["path"].startswith(("reports/code/", "engine/"))  # since, and before stage code
    )
    return hashlib.sha256(json.dumps(deps).encode()).hexdigest()[:16] if deps else ""


def _reader(outs: Mapping[str, str], cache: Path) -> Read:
    """A function that reads a file of these outputs from the cache, None where it is not there."""
    listings: dict[str, dict[str, str]] = {}

    def read(path: str) -> bytes | None:
        for out, md5 in outs.items():
            if path == out:
                return _object(cache, md5)
            if md5.endswith(".dir") and PurePosixPath(path).is_relative_to(out):
                if out not in listings:
                    listings[out] = {
                        entry["relpath"]: entry["md5"] for entry in _listing(_object(cache, md5))
                    }
                inner = PurePosixPath(path).relative_to(out).as_posix()
                return _object(cache, listings[out].get(inner, ""))
        return None

    return read


def _listing(content: bytes | None) -> list[dict[str, str]]:
    try:
        return json.loads(content or b"[]")
    except ValueError:
        return []


def _object(cache: Path, md5: str) -> bytes | None:
    try:
        return (cache / "files" / "md5" / md5[:2] / md5[2:]).read_bytes() if md5 else None
    except OSError:
        return None
