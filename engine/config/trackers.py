"""The trackers that `tracking.tracker` names: one entry each, read by the settings, their help and
documentation, the stages and the search.

A tracker is two modules, imported only when they are needed. That of stages has
`tracked(stage, params, root, artist)`, that of searches `tracked_study(study, values, root)` and
`tracked_trial(about, number, values, root)`: blocks whose value takes the events. See
`engine.tracking.stage_run.StageRun` and `engine.hpo.trial.NullTracker` for what a value must have.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_TRACKER = "none"


@dataclass(frozen=True)
class Tracker:
    """Where a tracker is, and the package without which there is none."""

    stages: str
    searches: str
    needs: str


TRACKERS = {
    "mlflow": Tracker("engine.tracking.stage_runs", "engine.tracking.hpo_runs", needs="mlflow"),
}
