"""The gates there are, the ones asked where nobody chose, and how their findings become one
decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError, nearest
from engine.gates.approval import Approval
from engine.gates.better import Better
from engine.gates.classes import Classes
from engine.gates.evidence import Evidence, counted, interval_text
from engine.gates.gate import VERSION, Finding, Gate, Verdict
from engine.gates.latency import Latency
from engine.gates.leaks import Leaks
from engine.gates.measured import Measured
from engine.gates.min_test import MinTest
from engine.gates.not_worse import NotWorse
from engine.gates.per_class import PerClass
from engine.gates.size import Size
from engine.plugins import find_object, is_dotted

# A new gate is one file and its line here.
GATES: dict[str, type[Gate]] = {
    gate.name: gate
    for gate in (
        Measured,
        Classes,
        MinTest,
        Leaks,
        Better,
        NotWorse,
        PerClass,
        Latency,
        Size,
        Approval,
    )
}
ALWAYS: tuple[Gate, ...] = (Measured(), Classes())

# Where the data have changed the newer model has learned what the older one could not, and test
# images are few: being as good is enough. On the same data there is no reason to change but a gain.
CHANGED_DATA: tuple[Gate, ...] = (MinTest(), Leaks(), NotWorse(), PerClass())
SAME_DATA: tuple[Gate, ...] = (MinTest(), Leaks(), Better(), PerClass())


@dataclass(frozen=True)
class Decision:
    """What all gates say together."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    way_out: str = ""  # of a HOLD: the evidence so far, and what a person can do

    @property
    def reason(self) -> str:
        """The reasons that decided; of a promotion the last gate's that compared something."""
        deciding = [each for each in self.findings if each.verdict == self.verdict]
        if self.verdict == Verdict.PROMOTE:
            return "; ".join(each.reason for each in deciding if each.gate in _TOLD) or "all passed"
        return "; ".join(f"{each.gate}: {each.reason}" for each in deciding)

    @property
    def asks_a_person(self) -> bool:
        """Whether it holds only because somebody has to say yes."""
        holding = [each for each in self.findings if each.verdict == Verdict.HOLD]
        return self.verdict == Verdict.HOLD and all(each.asks_a_person for each in holding)

    @property
    def passing(self) -> bool:
        """Whether another answer may come tomorrow, of the same models and images."""
        return all(each.passing for each in self.findings if each.verdict == self.verdict)

    @property
    def advice(self) -> tuple[str, ...]:
        return (*(e.advice for e in self.findings if e.advice), *filter(None, [self.way_out]))


_TOLD = {"min_test", "better", "not_worse"}


def decide(evidence: Evidence, gates: Sequence[Gate]) -> Decision:
    """Ask all gates: one that rejects decides, else one that holds, else the candidate is
    promoted. A first champion is always asked for enough images and the floor.
    """
    first = (
        [MinTest()] if evidence.is_first and not any(isinstance(g, MinTest) for g in gates) else []
    )
    always = tuple(type(gate) for gate in ALWAYS)
    asked = [*ALWAYS, *first, *(gate for gate in gates if not isinstance(gate, always))]
    findings = tuple(gate.ask(evidence) for gate in asked)
    said = {finding.verdict for finding in findings}
    for verdict in (Verdict.REJECT, Verdict.HOLD):
        if verdict in said:
            way_out = _way_out(evidence) if verdict == Verdict.HOLD else ""
            return Decision(verdict, findings, way_out)
    return Decision(Verdict.PROMOTE, findings)


def _way_out(evidence: Evidence) -> str:
    on = f"on {counted(evidence.images, 'images')} of {evidence.split}"
    name = evidence.candidate.name
    so_far = (
        f"{evidence.mean.metric} {evidence.mean.b:.3f} {on}"
        if evidence.is_first and evidence.mean.b is not None
        else f"{interval_text(evidence.mean)}, {on}"
    )
    if not VERSION.search(name):  # a file, which nobody can promote
        return f"So far: {so_far}."
    return (
        f"So far: {so_far}. With further images in data/prepared ask again: `detectflow decide "
        f'{name}`. A person promotes it all the same: `detectflow promote {name} --why "..."`.'
    )


def gates_for(chosen: Sequence[Gate] | None, evidence: Evidence) -> tuple[Gate, ...]:
    """The gates that params.yaml lists, or the default ones of the case."""
    if chosen is not None:
        return tuple(chosen)
    return CHANGED_DATA if evidence.data_changed else SAME_DATA


def read_gates(
    listed: Sequence[Any] | None, where: str = "register.gate"
) -> tuple[Gate, ...] | None:
    """Gates from settings: names, or one name with its settings each.

    `["min_test", {"not_worse": {"margin": 0.01}}, "mine.gates:Fair"]`; None: the default ones.

    Raises:
        ConfigError: no such gate, one that is named twice, or settings that it does not take.
    """
    if listed is None:
        return None
    gates: list[Gate] = []
    for number, each in enumerate(listed):
        name, settings = _name_and_settings(each, f"{where}[{number}]")
        gate = _class_of(name, where)
        if any(isinstance(other, gate) for other in gates):
            raise ConfigError(f"{where}: gate '{name}' is there twice")
        gates.append(gate.build(settings, f"{where}: {name}"))
    return tuple(gates)


def is_own(entry: Any) -> bool:
    """Whether an entry of settings names a gate of the user's own."""
    name = next(iter(entry), "") if isinstance(entry, Mapping) else entry
    return isinstance(name, str) and is_dotted(name)


def _name_and_settings(entry: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, settings = next(iter(entry.items()))
        if isinstance(name, str) and (settings is None or isinstance(settings, Mapping)):
            return name, settings or {}
    raise ConfigError(
        f"{where}: a gate is its name, or its name with settings: not_worse, or "
        f"{{not_worse: {{margin: 0.01}}}}; got {entry!r}"
    )


def _class_of(name: str, where: str) -> type[Gate]:
    if is_dotted(name):
        found = find_object(name, where)
        if not (isinstance(found, type) and issubclass(found, Gate)):
            raise ConfigError(f"{where}: '{name}' is no class derived from engine.gates.Gate")
        return found
    if name not in GATES:
        raise ConfigError(
            f"{where}: no gate '{name}'.{nearest(name, GATES)} There are: {', '.join(GATES)}"
        )
    return GATES[name]
