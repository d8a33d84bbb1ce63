"""check and diff: what is wrong with a dataset, and what changed between two versions of one."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.cli.arguments import folder_to_write, nested, take, text_of, written_into
from engine.config import DataConfig, Params, parse_overrides
from engine.config.sections import PrepareFlowConfig
from engine.errors import ConfigError

REFUSED = 1  # exit code of check where prepare would refuse the dataset

# Words of a mode that are no settings of the data section, with their defaults.
CHECK_EXTRA = {
    "data": None,
    "model": None,
    "device": "auto",
    "out": "runs/check",
    "classes": None,
    "workers": None,
}


def check(argv: Sequence[str]) -> int:
    """`detectflow check data=DATASET [model=WEIGHTS] key=value ...`"""
    given = parse_overrides(argv, DataConfig, texts=CHECK_EXTRA.keys() - {"workers"})
    workers = given.pop("workers", None)
    extra = take(given, "check", CHECK_EXTRA, DataConfig)
    settings, root = _settings(extra["data"], given)
    workers, out = _workers(workers, root), folder_to_write("check", "out", extra["out"])
    from engine.datasets.convert import refuse_inside
    from engine.datasets.description import load_description
    from engine.datasets.findings import Findings, letting_through
    from engine.datasets.reports.check_report import (
        KEPT_PER_KIND,
        report_page,
        report_text,
        report_values,
        worst,
    )
    from engine.datasets.scan import examine
    from engine.datasets.workers import LocalWorkers
    from engine.files import write_text
    from engine.stages.layout import write_json

    findings = Findings.with_policies(settings.policies, keep=KEPT_PER_KIND)
    description = load_description(settings.source)
    if folder := description.local_folder(settings):
        refuse_inside(out, folder)
        if extra["classes"] and not Path(extra["classes"]).is_file():  # it will be written
            refuse_inside(Path(extra["classes"]), folder, "classes")
    with _copies(description.generated) as copies:
        schema = _schema(extra["classes"], root, description.name)
        found = examine(
            description,
            settings,
            findings,
            copies=copies,
            schema=schema,
            progress=_progress,
            mapper=LocalWorkers(workers),
        )
        if extra["model"]:
            _ask_model(extra["model"], extra["device"], found, findings)
        with written_into(out):
            write_json(out / "report.json", report_values(description.name, found, findings))
            write_text(out / "report.html", report_page(description.name, found, findings))
    if extra["classes"] and not Path(extra["classes"]).exists() and found.names:
        from engine.datasets.classes import write_classes

        write_classes(Path(extra["classes"]), found.names)
        print(f"classes {extra['classes']}: {', '.join(found.names)}")
    print(report_text(description.name, found, findings))
    if policies := letting_through(findings):
        replaced = tuple(f"{word.partition('=')[0]}=" for word in policies)
        words = ("detectflow", "check", *(w for w in argv if not w.startswith(replaced)), *policies)
        print(f"\nLets it through: {shlex.join(words)}")
    print(f"\nimages {out / 'report.html'}   values {out / 'report.json'}")
    return REFUSED if worst(found, findings) == "error" else 0


def diff(argv: Sequence[str]) -> int:
    """`detectflow diff BEFORE [AFTER] [out=FOLDER] [notify=true]`"""
    versions = [arg for arg in argv if "=" not in arg]
    given = parse_overrides([arg for arg in argv if "=" in arg], texts={"out"})
    if "tell" in given:  # its name before `notify`, in scripts and schedules
        given = {"notify": given.pop("tell"), **given}
    if not 1 <= len(versions) <= 2 or given.keys() - {"out", "notify"}:
        wrong = next(iter(given.keys() - {"out", "notify"}), None)
        hint = f", not '{wrong}='" if wrong else ""
        raise ConfigError(
            f"diff takes one or two versions, out=FOLDER and notify=true{hint}. `detectflow help "
            "diff` shows what a version is"
        )
    out = folder_to_write("diff", "out", text_of("diff", "out", given.get("out")) or "runs/diff")
    notify = given.get("notify", False)
    if not isinstance(notify, bool):
        raise ConfigError(f"diff: notify={notify!r}, expected true or false")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    root = _project()
    if notify:
        _use_server(root)
    from engine.cli.dataset_versions import PREPARED, folder_of, open_version
    from engine.datasets.convert import refuse_inside
    from engine.datasets.reports.diff_report import diff_page, diff_text, diff_values
    from engine.datasets.version_diff import compare
    from engine.files import write_text
    from engine.stages.layout import write_json

    before, after = [*versions, PREPARED][:2]
    for place in (folder_of(before), folder_of(after), root and root / PREPARED):
        if place is not None:
            refuse_inside(out, place)
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(
            open_version(before, root, Path(scratch).resolve() / "before"),
            open_version(after, root, Path(scratch).resolve() / "after"),
        )
        with written_into(out):
            write_json(out / "diff.json", diff_values(found))
            write_text(out / "diff.html", diff_page(found))
    print(diff_text(found))
    print(f"\nimages {out / 'diff.html'}   values {out / 'diff.json'}")
    if notify and not found.is_empty:
        from flows.automations import emit_dataset_changed

        emit_dataset_changed(after, digest=found.new.digest, before=found.old.digest)
        print("sent to the Prefect server: the dataset has changed")
    return 0


def _use_server(root: Path | None) -> None:
    """Make the Prefect server the one that events go to. ConfigError, WorkspaceError: there is
    none; said before the work.
    """
    if root is None:
        raise ConfigError(
            "diff: notify=true needs a project, whose Prefect server gets the event. Go to the "
            "project's folder"
        )
    from flows.deploy import use_server

    use_server(root)


def _project() -> Path | None:
    """The root of the project here, its environment prepared; None outside a project: caches stay
    in the working directory.
    """
    from engine.project.environment import NoProject, prepare_environment

    with contextlib.suppress(NoProject):
        return prepare_environment()
    return None


def _settings(data: str | None, given: Mapping[str, Any]) -> tuple[DataConfig, Path | None]:
    """The data section to check with, and the project's root where there is a project.

    In a project its params.yaml counts; for another dataset than the project's own only what is not
    about one dataset: policies and thresholds.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    root = _project()
    own = Params.load(root / "params.yaml").data if root else None
    if data is None and own is None:
        raise ConfigError("check: no dataset given, for example data=data/bccd.yaml")
    if own is None:
        base = DataConfig(source=str(data))
    elif data is None or Path(data).resolve() == (root / own.source).resolve():
        from engine.stages.prepare import with_absolute_path

        base = with_absolute_path(own, root).with_overrides({"source": str(root / own.source)})
    else:
        general = (
            "policies",
            "near_duplicate_bits",
            "find_crops",
            "tiny_box_px",
            "seed",
            "val_fraction",
            "test_fraction",
        )
        base = DataConfig(source=str(data), **{key: getattr(own, key) for key in general})
    return base.with_overrides(nested(given, base)), root


@contextlib.contextmanager
def _copies(needed: bool) -> Iterator[Path | None]:
    """A folder for images that are generated, which have no file to be read again. Else None, and
    nothing is made.
    """
    if not needed:
        yield None
        return
    from engine.datasets.source import default_cache_dir

    scratch = default_cache_dir() / "check"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield Path(folder)


def _workers(given: Any, root: Path | None) -> int:
    """Processes that scan images: as given on the command line, else as the project says.
    ConfigError: no such number.
    """
    if given is None:
        return Params.load(root / "params.yaml").flows.prepare.workers if root else 0
    return PrepareFlowConfig.build({"workers": given}, where="check").workers


def _schema(file: str | None, root: Path | None, dataset: str) -> Any:
    """The fixed classes: of `file`, which may not be there yet, else of the project; None where
    nothing is fixed.
    """
    from engine.datasets.classes import CLASSES_FILE, load_classes

    path = Path(file) if file else root / CLASSES_FILE if root else None
    return load_classes(path, None, dataset) if path is not None and path.is_file() else None


def _ask_model(weights: str, device: str, found: Any, findings: Any) -> None:
    """Findings `label_error`: what a trained model sees in the images, beside their labels."""
    from engine.cli.modes import model_file
    from engine.datasets.label_errors import LEAST_SCORE, LabelErrors
    from engine.detect import DetectionPredictor

    predictor = DetectionPredictor(
        {
            "model": model_file(weights),
            "device": device,
            "conf": LEAST_SCORE,
            "save": False,
            "verbose": False,
            "classes": None,
        }
    )
    errors = LabelErrors(found.names)
    results = predictor([str(record.file) for record in found.records], stream=True)
    number = {name: index for index, name in enumerate(found.names)}
    for record, result in zip(found.records, results, strict=True):
        classes = {key: number[name] for key, name in result.names.items() if name in number}
        if not classes:
            raise ConfigError(
                f"{weights}: knows none of the dataset's classes. Model: "
                f"{', '.join(result.names.values())}. Dataset: {', '.join(found.names)}"
            )
        errors.add(record, result.detections, classes)
    errors.report(findings)


def _progress(values: Mapping[str, Any]) -> None:
    """A line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        end = "\n" if values["done"] == values["total"] else ""
        print(
            f"\r{values['done']} of {values['total']} images", end=end, file=sys.stderr, flush=True
        )
