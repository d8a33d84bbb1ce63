"""compare, decide, promote, rollback, approve, history: which model is better, and which one
production uses.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.arguments import folder_to_write, take, written_into
from engine.config import Params, ValidateConfig, parse_overrides
from engine.errors import ConfigError
from engine.files import make_folder

if TYPE_CHECKING:
    from engine.comparison.evidence import Comparison

COMPARE_EXTRA = {"data": None, "out": "runs/compare", "metric": None}


def compare(argv: Sequence[str]) -> int:
    """`detectflow compare [A B] [data=DATASET] key=value ...`"""
    names = [arg for arg in argv if "=" not in arg]
    given = parse_overrides(
        [arg for arg in argv if "=" in arg], ValidateConfig, texts=COMPARE_EXTRA
    )
    if len(names) not in (0, 2):
        raise ConfigError(
            f"compare takes two models, not {len(names)}: detectflow compare detector@champion "
            "detector@challenger. `detectflow help compare` shows what a model is"
        )
    root = _project()
    if not names:
        names = [f"{_model_of(root)}@{alias}" for alias in ("champion", "challenger")]
    params = Params.load(root / "params.yaml") if (root / "params.yaml").is_file() else Params()
    extra = take(given, "compare", COMPARE_EXTRA, ValidateConfig)
    settings = params.validate_.with_overrides({"plots": False, **given}, "compare")
    out = folder_to_write("compare", "out", extra["out"])
    from engine.comparison.evidence import METRICS, compare_models
    from engine.comparison.models import find_model
    from engine.comparison.text import as_text, values_of
    from engine.detect.data import open_data
    from engine.error_analysis.pair import summary
    from engine.errors import nearest
    from engine.files import write_text
    from engine.gates import decide, gates_for, read_gates
    from engine.gates.latency import Latency
    from engine.project.environment import state_root

    metric = extra["metric"] or params.register_.metric
    if metric not in METRICS:
        raise ConfigError(f"compare: metric={metric}.{nearest(metric, METRICS)} {list(METRICS)}")
    gates = read_gates(params.register_.gate)
    timed = any(isinstance(gate, Latency) for gate in gates or ())
    champion, candidate = (find_model(name, root) for name in names)
    data = open_data(extra["data"] or root / "data/prepared")
    found = compare_models(
        candidate,
        champion,
        data,
        settings,
        metric,
        state_root(root),
        timed=timed,
        data_changed=True,
    )
    decision = decide(found.evidence, gates_for(gates, found.evidence))
    print(as_text(found, decision))
    pair = _pair(found, out)
    if pair:
        print(f"\n{summary(pair)}")
    with written_into(out):
        values = json.dumps(values_of(found, decision), ensure_ascii=False, indent=1)
        write_text(out / "comparison.json", values + "\n")
    print(
        f"\nvalues {(out / 'comparison.json').as_posix()}, {(out / 'errors.json').as_posix()}   "
        f"images side by side {(out / 'images').as_posix()}/"
    )
    return 0


def _pair(found: Comparison, out: Path) -> dict[str, Any]:
    """What the candidate gains and loses, with images, into `out`."""
    from engine.report.pair import FOLDER, write_pair

    with written_into(out):
        make_folder(out)
        for old in (out / FOLDER).glob("*.jpg"):  # of an earlier comparison
            old.unlink()
        return write_pair(found, out)


def decide(argv: Sequence[str]) -> int:
    """`detectflow decide [NAME/VERSION]`"""
    names, *_ = _arguments("decide", argv, "a version, for example detector/3", least=0, why="")
    root = _project()
    params = Params.load(root / "params.yaml")
    from engine.comparison.decision import settle
    from engine.comparison.text import as_text
    from engine.registry.fetch import fetch
    from engine.registry.moves import Move, history_of, person

    reference = names[0] if names else f"{_model_of(root)}@challenger"
    version = fetch(reference, root)
    done = settle(version.name, version.version, params, root, by=person(root), presented=False)
    if done.comparison is not None:
        print(as_text(done.comparison, done.decision))
        history, _ = history_of(version.name, root)
        entry = next(e for e in reversed(history) if e.version == done.version and e.evidence)
        _tell_prefect(Move(version.name, done.version, done.before, done.champion, entry), root)
        _keep_pair(done.comparison, version.name, done.version, root)
    else:
        said = f"{done.verdict.value}: " if done.verdict else ""
        print("\n\n".join([f"{version.name}/{version.version}: {said}{done.reason}", *done.advice]))
    now = f"version {done.champion} is champion" if done.champion else "there is no champion"
    print(f"\n{version.name}: {now}")
    return 0


def _keep_pair(found: Comparison, name: str, version: str, root: Path) -> None:
    """What the version gains and loses, beside the evidence in MLflow, for the report's page."""
    from engine.errors import EngineError
    from engine.registry.version_files import keep_pair
    from engine.report.pair import write_pair

    try:
        with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
            if write_pair(found, Path(scratch)):
                keep_pair(name, version, Path(scratch), root)
    except (EngineError, OSError) as error:  # the decision is made and written down
        logging.getLogger("detectflow").warning(
            "what %s/%s gained is not in MLflow: %s", name, version, error
        )


def promote(argv: Sequence[str]) -> int:
    """`detectflow promote NAME/VERSION --why TEXT`"""
    (reference,), why, _ = _arguments("promote", argv, "a version, for example detector/3")
    root = _project()
    from engine.registry.moves import promote as move

    done = move(reference, why, root)
    _tell_prefect(done, root)
    was = f"; it was version {done.before}" if done.before and done.entry else ""
    print(f"{done.name}: {done.aliases_text}{was}" if done.entry else _already(done))
    return 0


def rollback(argv: Sequence[str]) -> int:
    """`detectflow rollback [NAME] --why TEXT [--steps N]`"""
    names, why, steps = _arguments("rollback", argv, "a registered model", least=0)
    root = _project()
    from engine.registry.moves import roll_back

    done = roll_back(names[0] if names else _model_of(root), why, root, steps)
    _tell_prefect(done, root)
    print(f"{done.name}: {done.aliases_text} again; it was version {done.before}")
    return 0


def approve(argv: Sequence[str]) -> int:
    """`detectflow approve NAME/VERSION [--why TEXT]`"""
    (reference,), why, _ = _arguments("approve", argv, "a version, for example detector/3", why="")
    root = _project()
    from engine.registry.moves import approve as say_yes

    done = say_yes(reference, why, root)
    by = done.entry.by if done.entry else "somebody before"
    print(
        f"{done.name}/{done.version} is approved by {by}. The gates are asked again by: detectflow "
        f"decide {done.name}/{done.version}"
    )
    return 0


def history(argv: Sequence[str]) -> int:
    """`detectflow history [NAME] [format=json]`"""
    form = [arg for arg in argv if arg.startswith("format=")]
    names, *_ = _arguments(
        "history", [arg for arg in argv if arg not in form], "a registered model", 0, why=""
    )
    if form and form[-1] not in {"format=text", "format=json"}:
        raise ConfigError(f"history: {form[-1]}: expected format=text or format=json")
    root = _project()
    from dataclasses import asdict

    from engine.registry.moves import history_of

    name = names[0] if names else _model_of(root)
    entries, aliases = history_of(name, root)
    if form[-1:] == ["format=json"]:
        values = {"model": name, "aliases": aliases, "history": [asdict(e) for e in entries]}
        print(json.dumps(values, ensure_ascii=False, indent=2))
        return 0
    if not entries:
        print(f"{name}: nothing has been decided yet")
    for entry in entries:
        version = f"version {entry.version}" if entry.version else "nobody"
        before = f", before: version {entry.before}" if entry.moves and entry.before else ""
        by = f" by {entry.by}" if entry.by else ""
        print(f"{entry.at[:16].replace('T', ' ')}  {version} {entry.what}{by}{before}")
        if entry.why:
            print(f"{'':18}{entry.why}")
    held = ", ".join(f"{alias} is version {version}" for alias, version in sorted(aliases.items()))
    print(f"Now: {held or 'no alias'}")
    return 0


def _tell_prefect(done: Any, root: Path) -> None:
    """The event of a move, where there is a Prefect server to send it to."""
    if done.entry is not None and importlib.util.find_spec("prefect") is not None:
        from flows.events import post_event

        aliases = {"champion": done.champion} if done.champion else {}
        post_event(done.name, done.entry, aliases, root)


def _already(done: Any) -> str:
    return f"{done.name}: version {done.version} is champion already"


def _arguments(
    mode: str, argv: Sequence[str], what: str, least: int = 1, why: str | None = None
) -> tuple[list[str], str, int]:
    """Names, the reason, the number of steps. why: the reason where none is given; None: there has
    to be one.
    """
    names: list[str] = []
    found: dict[str, str] = {}
    waiting = ""
    for arg in argv:
        key, sign, value = arg.removeprefix("--").partition("=")
        if waiting:
            found[waiting], waiting = arg, ""
        elif arg in {"--why", "--steps"}:
            waiting = key
        elif sign and key in {"why", "steps"}:
            found[key] = value
        elif arg.startswith("-") or sign:
            raise ConfigError(f"{mode}: unknown argument {arg}. `detectflow help {mode}` shows all")
        else:
            names.append(arg)
    if waiting:
        raise ConfigError(f"{mode}: --{waiting} needs a value")
    if not least <= len(names) <= 1:
        raise ConfigError(f"{mode} takes {what}, not {' '.join(names) or 'nothing'}")
    reason = found.get("why", why)
    if not (reason or "").strip() and why is None:
        raise ConfigError(
            f'{mode}: say why, for those who read the history: detectflow {mode} ... --why "..."'
        )
    steps = found.get("steps", "1")
    if not steps.isdecimal() or int(steps) < 1:
        raise ConfigError(f"{mode}: --steps {steps}: expected a number from 1 up")
    return names, reason or "", int(steps)


def _model_of(root: Path) -> str:
    from engine.tracking.model_name import registered_name

    return registered_name(Params.load(root / "params.yaml"), root)


def _project() -> Path:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from engine.project.environment import prepare_environment

    return prepare_environment()
