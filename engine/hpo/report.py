"""What came out of a search: a table, the best values as YAML with the commands that take them, two
plots; weights cleared.

    runs/tune/STUDY/
      best.yaml        the best values, as section train; `detectflow train settings=...` and
                       `detectflow run -S @...` take it
      trials.csv       every trial: state, value, epochs, settings
      history.png      value of every trial, and the best so far
      importance.png   how much of the differences each setting explains
      trial-NNNN/      run directories

Only `clear_weights` removes anything.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from engine.config import DetectionTrainConfig, Params
from engine.core.results import write_results
from engine.files import write_text
from engine.hpo.study import CONTINUES, ERROR, START, finished, ranked
from engine.hpo.sweep import SPEED_ONLY, Sweep
from engine.markdown import table
from engine.plots.style import INK, MUTED, dress, mpl_colour, new_figure, note, save_figure

SHOWN = 5  # trials in the table
IMPORTANCE_FROM = 4  # complete trials; with fewer it is noise


def write_report(sweep: Sweep, study: optuna.Study) -> dict[str, Any]:
    """Write all files; the result as plain values: best number, value, values, counts, commands,
    the table as Markdown.
    """
    folder, best = sweep.folder, ranked(study)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(
        folder / "trials.csv", [_row(trial) for trial in study.get_trials(deepcopy=False)]
    )
    plot_history(study, sweep, folder / "history.png")
    plot_importance(importances(study), folder / "importance.png")
    counts = count_states(study)
    result: dict[str, Any] = {
        "study": sweep.study,
        "folder": str(folder),
        "counts": counts,
        "best": None,
        "monitor": sweep.training.monitor,
        "files": ["trials.csv", "history.png", "importance.png"],
    }
    if best:
        first = best[0]
        commands = commands_for(sweep, first.params)
        lines = [
            f"# study {sweep.study}: trial {first.number}, {sweep.training.monitor} "
            f"{first.value:.4f} on split val",
            *(f"#   {command}" for command in commands),
        ]
        write_text(
            folder / "best.yaml",
            "\n".join(lines) + "\n" + yaml.safe_dump({"train": first.params}, sort_keys=False),
        )
        result["best"] = {"number": first.number, "value": first.value, "values": first.params}
        result |= {"commands": commands, "files": [*result["files"], "best.yaml"]}
        start = next((t for t in best if t.user_attrs.get(START)), None)
        result["start_value"] = start.value if start is not None else None
    result["table"] = as_table(study, sweep)
    return result


def commands_for(sweep: Sweep, values: dict[str, Any]) -> list[str]:
    """What trains with these values: for the pipeline, and by itself."""
    file = f"runs/tune/{sweep.study}/best.yaml"
    given = {
        name: value
        for name, value in sweep.base.items()
        if name not in SPEED_ONLY and value is not None
    }
    settings = " ".join(f"{name}={_word(value)}" for name, value in given.items())
    train = f"detectflow train data={sweep.source} {settings} settings={file}"
    if not values.keys() <= DetectionTrainConfig.model_fields.keys():
        return [train]  # settings of the user's own trainer, which params.yaml does not know
    # What the trials had and the pipeline would not have from params.yaml.
    there = Params.load(Path(sweep.root) / "params.yaml").train
    own = "".join(
        f" -S train.{name}={_word(given[name])}"
        for name in ("trainer", "model")
        if given.get(name) is not None and given[name] != getattr(there, name)
    )
    return [f"detectflow run{own} -S @{file}", train]


def _word(value: Any) -> str:
    return shlex.quote(
        json.dumps(value, separators=(",", ":"))
        if isinstance(value, (list, dict, bool))
        else str(value)
    )


def clear_weights(sweep: Sweep, study: optuna.Study) -> None:
    """Remove the weights of ended trials that are not among the best `keep`; settings and metrics
    stay.
    """
    kept = {trial.number for trial in ranked(study)[: sweep.settings.keep]}
    for trial in finished(study):
        if trial.number not in kept:
            shutil.rmtree(
                sweep.folder / f"trial-{trial.number:04d}" / "weights", ignore_errors=True
            )


def count_states(study: optuna.Study) -> dict[str, int]:
    """{"complete": n, "pruned": n, "failed": n}, without trials whose process died and that were
    tried again.
    """
    names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    counts = dict.fromkeys(names.values(), 0)
    for trial in finished(study):
        counts[names[trial.state]] += 1
    return counts


def as_table(study: optuna.Study, sweep: Sweep) -> str:
    """The best trials in Markdown, with what training would have done without a search marked."""
    names = [each.name for each in sweep.dimensions]
    best = ranked(study)
    shown = best[:SHOWN] + [trial for trial in best[SHOWN:] if trial.user_attrs.get(START)]
    rows = [
        (
            f"{trial.number}{' (as it was)' if trial.user_attrs.get(START) else ''}",
            f"{trial.value:.4f}",
            *(_shown(trial.params[name]) for name in names),
        )
        for trial in shown
    ]
    return table(("trial", sweep.training.monitor, *names), rows)


def importances(study: optuna.Study) -> dict[str, float]:
    """Fraction of the differences between complete trials by setting, the largest first; empty
    where nothing can be said.
    """
    values = {trial.value for trial in ranked(study)}
    if len(ranked(study)) < IMPORTANCE_FROM or len(values) == 1:
        return {}
    # Not Optuna's default, PED-ANOVA: it asks what the very best trials have in
    # common, of twenty trials one or two.
    return optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )


def plot_history(study: optuna.Study, sweep: Sweep, path: Path) -> Path:
    """Value of every trial by number, pruned ones hollow, and the best so far as a line."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    dress(axes, f"Study {sweep.study}", "trial", sweep.training.monitor)
    trials = [trial for trial in finished(study) if trial.value is not None]
    if not trials:
        note(axes, "no trial has ended with a value")
        return save_figure(figure, path)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    better = max if sweep.training.monitor_mode == "max" else min
    so_far = [better(t.value for t in complete[: i + 1]) for i in range(len(complete))]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    axes.scatter(
        [t.number for t in pruned],
        [t.value for t in pruned],
        facecolors="none",
        edgecolors=MUTED,
        label="pruned",
    )
    axes.scatter(
        [t.number for t in complete],
        [t.value for t in complete],
        color=mpl_colour(0),
        label="complete",
    )
    axes.step(
        [t.number for t in complete], so_far, where="post", color=mpl_colour(3), label="best so far"
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def plot_importance(fractions: dict[str, float], path: Path) -> Path:
    """A bar per setting."""
    figure = new_figure(7, 1.2 + 0.35 * max(len(fractions), 4))
    axes = figure.subplots()
    dress(axes, "What the differences between trials go with", "fraction")
    if not fractions:
        note(axes, f"needs {IMPORTANCE_FROM} complete trials that differ")
        return save_figure(figure, path)
    names = list(reversed(fractions))
    bars = axes.barh(names, [fractions[name] for name in names], color=mpl_colour(0))
    axes.bar_label(bars, fmt="%.2f", padding=3, color=INK, fontsize=9)
    axes.grid(False, axis="y")
    return save_figure(figure, path)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        **{
            key: trial.user_attrs.get(key) for key in ("best_epoch", "epochs", "seconds", CONTINUES)
        },
        **trial.params,
        ERROR: trial.user_attrs.get(ERROR),
    }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lines_of(result: dict[str, Any]) -> Sequence[str]:
    """The end of a search on the console."""
    counts = (
        ", ".join(f"{count} {state}" for state, count in result["counts"].items() if count)
        or "none ended"
    )
    lines = [result["table"], "", f"study {result['study']}: trials: {counts}"]
    if result["best"] is not None:
        start = (
            f", {result['start_value']:.4f} as it was"
            if result.get("start_value") is not None
            else ""
        )
        lines += [
            f"best: trial {result['best']['number']}, {result['monitor']} "
            f"{result['best']['value']:.4f}{start}",
            "train with these values:",
            *(f"  {command}" for command in result["commands"]),
        ]
    return lines
