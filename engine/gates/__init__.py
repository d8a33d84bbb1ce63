"""Which model becomes champion: gates over what was measured of two models, one file each.

`GATES` (table.py) is the only list of them: settings, help, docs and the registry read it. Lives
here: rules and their words. Does not: the registry, and measuring (`engine.registry`,
`engine.metrics`). Calls `engine.settings` and values of the vocabulary only.
"""

from engine.gates.evidence import Evidence, Subject
from engine.gates.gate import Finding, Gate, Verdict
from engine.gates.table import GATES, Decision, decide, gates_for, read_gates

__all__ = [
    "GATES",
    "Decision",
    "Evidence",
    "Finding",
    "Gate",
    "Subject",
    "Verdict",
    "decide",
    "gates_for",
    "read_gates",
]
