"""Whether a registered version becomes champion: both models are measured now, the gates are asked,
and what comes of it is entered in the history.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.comparison.evidence import Comparison, compare_models
from engine.comparison.left_out import copies_digest
from engine.comparison.models import find_model
from engine.comparison.text import as_markdown, values_of
from engine.config import Params
from engine.data.manifest import load_prepared
from engine.errors import ConfigError, EngineError, WorkspaceError
from engine.gates import GATES, Decision, Gate, Verdict, decide, gates_for, read_gates
from engine.gates.latency import Latency
from engine.project.environment import state_root
from engine.registry.fetch import read_artifact
from engine.registry.history import (
    APPROVAL,
    CHALLENGER,
    CHAMPION,
    DECISIONS,
    Entry,
    What,
    add,
    appoint,
    earlier_champions,
    entries,
    evidence_stem,
    notice,
    repair,
    standing,
    vacancy,
)
from engine.registry.moves import approved_by
from engine.registry.registry import aliases_of, described_errors
from engine.registry.version_description import show_history
from engine.tracking.mlflow_client import Store, open_store, patient
from engine.tracking.run_metadata import dataset_metadata, images_digest

WHAT = {
    Verdict.PROMOTE: What.PROMOTED,
    Verdict.HOLD: What.HELD,
    Verdict.REJECT: What.REJECTED,
}
DIGITS = 16  # of a digest in an entry


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a version. Without `comparison` nothing was asked now: `reason` says why, and
    `values` are those of the decision that stands.
    """

    version: str
    champion: str | None  # as the registry says at this moment
    aliases: tuple[str, ...]  # of the version, likewise
    before: str | None  # the champion it was compared with
    verdict: Verdict | None
    reason: str
    advice: tuple[str, ...] = ()
    comparison: Comparison | None = None
    decision: Decision | None = None
    values: Mapping[str, Any] | None = None  # of the comparison and the decision, as JSON has them


def settle(
    name: str, version: str, params: Params, root: Path, by: str, presented: bool = True
) -> Outcome:
    """Decide about a version, unless a decision on the same evidence stands already.

    by: who or what decides, for the history. presented: the version becomes challenger.

    Raises:
        ConfigError: gates that there are not; the version is of another dataset than the prepared
            one. DataError: nothing to compare on.
        WorkspaceError: the registry cannot be reached, the champion's file is gone, or somebody
            moved the alias meanwhile. Aliases are never half moved.
    """
    chosen = read_gates(params.register_.gate)
    state = state_root(root)
    data = load_prepared(root / "data/prepared")
    with described_errors(state), patient():
        store = open_store(state)
        _check_dataset(store, name, version, root)
        images = images_digest(root, params.validate_.split)
        aliases, history = notice(store, name, images)
        repair(store, name, history)
        before, approval = aliases.get(CHAMPION), approved_by(history, version)
        if presented:
            store.client.set_registered_model_alias(name, CHALLENGER, version)
        if before == version:
            values = _kept_values(store, name, version, history)
            said = _already(version, history)
            return _outcome(store, name, version, before, None, said, values=values)
        vacant = vacancy(history)
        without = "nobody is champion" if vacant else ""
        evidence = _evidence_key(params, chosen, images + copies_digest(data) + without)
        other = before if vacant is None else _last_there(store, name, history, version)
        stands = standing(history, version, evidence, other or "", images)
    if stands is not None:
        values = _kept_values(store, name, version, history)
        return _stands(store, name, version, before, stands, values)
    candidate = find_model(f"{name}/{version}", root)
    champion = None if other is None else _champion(name, other, root)
    comparison = compare_models(
        candidate,
        champion,
        data,
        params.validate_,
        params.register_.metric,
        cache=state,
        timed=any(isinstance(gate, Latency) for gate in chosen or ()),
        data_changed=_data_changed(store, name, version, other),
        approved_by=approval,
        decided_before=_decisions_on(images, history),
        vacant="" if vacant is None else _vacancy_text(vacant),
    )
    decision = decide(comparison.evidence, gates_for(chosen, comparison.evidence))
    entry = Entry(
        WHAT[decision.verdict],
        version,
        before or "",
        by,
        decision.reason,
        evidence,
        other or "",
        images,
        APPROVAL if decision.asks_a_person else "",
        decision.passing,
    )
    with described_errors(state), patient():
        if decision.verdict == Verdict.PROMOTE:
            entry = appoint(store, name, entry, before)
        else:
            entry = add(store, name, entry)
        values = values_of(comparison, decision)
        _keep(store, name, entry, comparison, decision, values)
        show_history(store, name, entries(store, name))
        return _outcome(
            store,
            name,
            version,
            before,
            decision.verdict,
            decision.reason,
            decision.advice,
            comparison,
            decision,
            values,
        )


def _already(version: str, history: Sequence[Entry]) -> str:
    since = next((e for e in reversed(history) if e.moves and e.version == version), None)
    return "it is champion already" + (f" since {since.at[:10]}" if since and since.at else "")


def _decisions_on(images: str, history: Sequence[Entry]) -> int:
    """How often these very test images have decided; the same question asked again counts once."""
    decided = (e for e in history if e.images == images and e.what in DECISIONS and e.evidence)
    return len({(e.version, e.evidence, e.against) for e in decided})


def _outcome(
    store: Store,
    name: str,
    version: str,
    before: str | None,
    verdict: Verdict | None,
    reason: str,
    *more: Any,
    values: Mapping[str, Any] | None = None,
) -> Outcome:
    aliases = aliases_of(store, name)
    own = tuple(sorted(alias for alias, of in aliases.items() if of == version))
    found = Outcome(version, aliases.get(CHAMPION), own, before, verdict, reason, *more)
    return found if values is None else replace(found, values=values)


def _stands(
    store: Store,
    name: str,
    version: str,
    before: str | None,
    entry: Entry,
    values: Mapping[str, Any] | None,
) -> Outcome:
    if entry.is_persons_move:
        verdict: Verdict | None = Verdict.REJECT
        who = f" by {entry.by}" if entry.by else ""
        said = f"taken back{who} on {entry.at[:10]}" + (f": {entry.why}" if entry.why else "")
    else:
        verdict = next(verdict for verdict, what in WHAT.items() if what == entry.what)
        said = f"{entry.what} on {entry.at[:10]}: {entry.why}"
    advice = (
        f"Nothing is decided anew without new test images, settings or gates. A person promotes it "
        f'all the same with: detectflow promote {name}/{version} --why "..."'
        if entry.waits_for != APPROVAL
        else f"A person decides: `detectflow approve {name}/{version}`."
    )
    return _outcome(store, name, version, before, verdict, said, (advice,), values=values)


def _kept_values(
    store: Store, name: str, version: str, history: Sequence[Entry]
) -> Mapping[str, Any] | None:
    """The evidence of the last decision about a version, from the artifacts of its run; None where
    it is not to be had.
    """
    decided = [e for e in history if e.version == version and e.what in DECISIONS and e.evidence]
    run_id = store.client.get_model_version(name, version).run_id
    if not decided or not run_id:
        return None
    # A person's no has the evidence of the decision that asked for it.
    found = (read_artifact(store, run_id, f"{evidence_stem(e)}.json") for e in reversed(decided))
    return next((values for values in found if values), None)


def _champion(name: str, version: str, root: Path) -> Any:
    try:
        return find_model(f"{name}/{version}", root)
    except (WorkspaceError, ConfigError, EngineError) as error:
        raise WorkspaceError(
            f"the champion, version {version} of '{name}', cannot be measured: {error} Nothing was "
            "decided. Bring its file back, or give production another champion: `detectflow "
            f"rollback {name}`, or `detectflow promote {name}/VERSION`."
        ) from error


def _check_dataset(store: Store, name: str, version: str, root: Path) -> None:
    trained_on = store.client.get_model_version(name, version).tags.get("dataset", "")
    prepared = str(dataset_metadata(root).get("name", ""))
    if trained_on and prepared and trained_on != prepared:
        raise ConfigError(
            f"{name}/{version} is of the dataset '{trained_on}', and data/prepared holds "
            f"'{prepared}': their test images decide nothing about it. Set data.source to "
            f"'{trained_on}' and prepare it (`dvc repro prepare`), or decide by hand: `detectflow "
            f'promote {name}/{version} --why "..."`.'
        )


def _last_there(store: Store, name: str, history: Sequence[Entry], version: str) -> str | None:
    """The last champion whose version is still in the registry, for want of a present one."""
    there = {str(v.version) for v in store.client.search_model_versions(f"name = '{name}'")}
    earlier = [each for each in earlier_champions(history) if each in there and each != version]
    return earlier[-1] if earlier else None


def _vacancy_text(vacant: Entry) -> str:
    by = f" by {vacant.by}" if vacant.by else ""
    return f"version {vacant.before} was champion until {vacant.at[:10]}{by} ({vacant.why})"


def _evidence_key(params: Params, chosen: Sequence[Gate] | None, images: str) -> str:
    """What a decision rests on besides the two models and a person's yes."""
    settings = params.validate_
    values = {
        "images": images,
        "settings": {key: getattr(settings, key) for key in ("split", "conf", "iou", "max_det")},
        "metric": params.register_.metric,
        "gates": None
        if chosen is None
        else [{"gate": _rule(gate), **gate.model_dump(mode="json")} for gate in chosen],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _rule(gate: Gate) -> str:
    """Which rule a gate is: its name, or where a gate of the user's own stands, and its source."""
    kind = type(gate)
    if GATES.get(gate.name) is kind:
        return gate.name
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        source = ""
    digest = hashlib.sha256(source.encode()).hexdigest()[:DIGITS]
    return f"{kind.__module__}:{kind.__qualname__} {digest}"


def _data_changed(store: Store, name: str, version: str, before: str | None) -> bool:
    """Whether the two were trained on other data; where it is not known, they were."""
    if before is None:
        return False
    digests = [
        store.client.get_model_version(name, each).tags.get("data_digest", "")
        for each in (version, before)
    ]
    return not digests[0] or digests[0] != digests[1]


def _keep(
    store: Store,
    name: str,
    entry: Entry,
    comparison: Comparison,
    decision: Decision,
    values: Mapping[str, Any],
) -> None:
    """The evidence as artifacts of the version's run, and the verdict as its tags."""
    client, version = store.client, entry.version
    client.set_model_version_tag(name, version, "verdict", decision.verdict.value)
    client.set_model_version_tag(name, version, "decision", decision.reason[:5000])
    run_id = client.get_model_version(name, version).run_id
    if run_id:
        stem = evidence_stem(entry)
        client.log_dict(run_id, values, f"{stem}.json")
        client.log_text(run_id, as_markdown(comparison, decision) + "\n", f"{stem}.md")
        with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
            place = Path(f"{stem}.npz")
            file = comparison.candidate.table.save(Path(scratch) / place.name)
            client.log_artifact(run_id, str(file), str(place.parent))
