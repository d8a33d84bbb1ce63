"""What a gate is: settings with a rule."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from engine.gates.evidence import Evidence
from engine.settings.base import Frozen

VERSION = re.compile(r"/\d+$")  # in a model's name: it is registered


class Verdict(StrEnum):
    """PROMOTE: nothing against it. HOLD: the evidence does not say. REJECT: it says no."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    REJECT = "REJECT"


@dataclass(frozen=True)
class Finding:
    """What one gate says: a sentence, and what would change it."""

    gate: str
    verdict: Verdict
    reason: str
    advice: str = ""
    rows: tuple[Mapping[str, Any], ...] = ()  # of a table behind the reason, for example by class
    asks_a_person: bool = False  # whether a yes, and nothing else, would make it pass
    passing: bool = False  # whether it may be another one tomorrow, of the same models and images


class Gate(Frozen):
    """Base of all gates. A gate is one class: its fields are its settings in params.yaml, its
    docstring's first sentence its help, `ask` its rule. Write one of your own the same way and name
    it `mine.gates:Fair` in `register.gate`.
    """

    name: ClassVar[str] = ""
    passing: ClassVar[bool] = False  # of its findings

    @abstractmethod
    def ask(self, evidence: Evidence) -> Finding:
        """The gate's finding; never an exception for what a model can be."""

    def found(self, verdict: Verdict, reason: str, advice: str = "", rows: Any = ()) -> Finding:
        name = self.name or type(self).__name__
        return Finding(name, verdict, reason, advice, tuple(rows), passing=self.passing)

    def passes(self, reason: str, rows: Any = ()) -> Finding:
        return self.found(Verdict.PROMOTE, reason, rows=rows)

    def holds(self, reason: str, advice: str = "", rows: Any = ()) -> Finding:
        return self.found(Verdict.HOLD, reason, advice, rows)

    def asks(self, reason: str, advice: str) -> Finding:
        """It holds until a person says yes: `detectflow approve`."""
        name = self.name or type(self).__name__
        return Finding(name, Verdict.HOLD, reason, advice, asks_a_person=True)

    def rejects(self, reason: str, advice: str = "", rows: Any = ()) -> Finding:
        return self.found(Verdict.REJECT, reason, advice, rows)
