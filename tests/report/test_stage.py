"""Stage register makes the report, MLflow keeps it, the command makes it again; a fault in it undoes
nothing.
"""

import json
import logging
import re
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sample_reports as reports
import toys

from engine.cli import main
from engine.comparison import evidence
from engine.comparison.measure import measure
from engine.data.manifest import read_manifest, write_manifest
from engine.errors import ConfigError, WorkspaceError
from engine.registry import version_files
from engine.registry.moves import roll_back
from engine.report import pair as pair_module
from engine.report import publish
from engine.report.publish import write_report
from engine.stages import register as stage


def model(root, seed, shift=0, **quality):
    """Train, export and register a detector whose boxes lie `shift` pixels beside."""
    toys.train(root, epochs=1, seed=seed)
    toys.validate(root)
    toys.export(root, shift=shift, **quality)
    return stage.run(toys.params_of(root), root)


def text_of(root):
    return (root / "reports/index.html").read_text(encoding="utf-8")


def test_the_report_is_in_the_workspace_in_mlflow_and_linked(workspace, store):
    model(workspace, 0, shift=2)
    done = model(workspace, 1)
    name, text = done["model"], text_of(workspace)
    assert f"{name} version 2 is the champion, instead of version 1." in text
    assert "Against the champion" in text and "min_test" in text
    card = (workspace / "reports/model_card.md").read_text(encoding="utf-8")
    assert card.startswith(f"# Model card: {name} version 2")
    assert done["latency"]["runs"] > 0 and f"{done['latency']['median_ms']:.1f} ms an image" in text
    assert done["run_id"] in text and "toy" in text  # where it comes from: MLflow was asked
    assert "promoted" in text  # history
    version = store.client.get_model_version(name, "2")
    for found in (
        store.client.list_artifacts(version.run_id, "report"),
        store.client.list_logged_model_artifacts(version.source.removeprefix("models:/"), "report"),
    ):
        assert sorted(each.path for each in found) == ["report/index.html", "report/model_card.md"]
    page = f"runs/{version.run_id}/artifacts/report/index.html"
    assert page in version.description and page in version.tags["page_url"]
    assert "report/model_card.md" in version.description


def test_run_again_it_still_says_by_what_was_decided(workspace, store):
    model(workspace, 0, shift=2)
    model(workspace, 1)
    again = stage.run(toys.params_of(workspace), workspace)
    assert again["verdict"] is None
    text = text_of(workspace)
    assert "Promoted" in text and "Against the champion" in text
    assert "it is champion already since" in text


def relabel(prepared, split, number):
    """Another class for the first box of an image."""
    manifest = prepared / f"{split}.jsonl"
    records = read_manifest(manifest)
    records[number].classes[0] = 1 - records[number].classes[0]
    write_manifest(manifest, records)
    return records[number].sha256


def test_what_changed_in_the_data_since_the_champion_is_counted(workspace, store):
    model(workspace, 0, shift=2)
    prepared = workspace / "data/prepared"
    toys.add_images(prepared, "train", range(40, 43))
    images = [relabel(prepared, "train", 0), relabel(prepared, "test", 3)]
    tasks = workspace / "runs/tasks/relabel/tasks.csv"
    tasks.parent.mkdir(parents=True)
    tasks.write_text("".join(f"{each}\n" for each in ("sha256", *images[:1], "0" * 64)))
    model(workspace, 1)
    text = text_of(workspace)
    said = "train: 3 images added, 1 with other labels; test: 1 image with other labels."
    assert f"In the data since detector/1, {said}" in text
    assert "tasks of `detectflow tasks`: 1 image with corrected labels." in text
    toys.train(workspace, epochs=1, seed=2)
    toys.validate(workspace)
    toys.export(workspace)
    stage.run(toys.params_of(workspace), workspace)
    assert "no image and no label has changed" in text_of(workspace)


def pair_of(root):
    return json.loads((root / "reports/compare/errors.json").read_text(encoding="utf-8"))


def test_what_a_version_gained_is_that_of_the_decision_and_no_second_inference(
    workspace, store, monkeypatch
):
    model(workspace, 0, blind=(1, 2, 3))
    assert pair_of(workspace) == {} and 'id="gained"' not in text_of(workspace)
    measured = []
    monkeypatch.setattr(
        evidence, "measure", lambda *given: measured.append(given[0].name) or measure(*given)
    )
    name = model(workspace, 1)["model"]
    assert measured == [f"{name}/2", f"{name}/1"]
    pair = pair_of(workspace)
    assert (pair["a"], pair["b"], pair["images"]) == (f"{name}/1", f"{name}/2", 24)
    gained = sum(each["gained"] for each in pair["classes"])
    # What the first did not see: boxes in three of the eight columns of cells.
    boxes = np.concatenate([r.boxes for r in read_manifest(workspace / "data/prepared/test.jsonl")])
    columns = ((boxes[:, 0] + 4) / 8).astype(int)
    assert gained == np.isin(columns, (1, 2, 3)).sum() > 0
    assert sum(each["lost"] for each in pair["classes"]) == 0
    text = text_of(workspace)
    assert f"{name}/2 finds {gained} that {name}/1 missed, and misses 0" in text
    assert text.count("labels, before, now") == 4 and "No image lost." in text
    card = (workspace / "reports/model_card.md").read_text(encoding="utf-8")
    assert f"finds {gained} that" in card


def test_what_a_version_gained_is_kept_with_the_evidence_and_comes_back(workspace, store):
    model(workspace, 0, shift=2)
    name = model(workspace, 1, blind=(4,))["model"]
    first = pair_of(workspace)
    run_id = store.client.get_model_version(name, "2").run_id
    kept = [each.path for each in store.client.list_artifacts(run_id, "decisions")]
    (place,) = [each for each in kept if each.endswith("-version-2-pair")]
    inside = {each.path.rpartition("/")[2] for each in store.client.list_artifacts(run_id, place)}
    assert inside == {"errors.json", "images"}
    images = sorted((workspace / "reports/compare/images").iterdir())
    shutil.rmtree(workspace / "reports/compare")  # as DVC does before it runs a stage again
    again = stage.run(toys.params_of(workspace), workspace)
    assert not json.loads((workspace / "reports/decision.json").read_text())["asked_now"]
    assert pair_of(workspace) == first and 'id="gained"' in text_of(workspace)
    assert sorted((workspace / "reports/compare/images").iterdir()) == images and images
    assert again["version"] == 2


def test_a_fault_in_what_was_gained_undoes_no_registration(workspace, store, monkeypatch, caplog):
    model(workspace, 0, shift=2)
    monkeypatch.setattr(pair_module, "pair_report", fail)
    with caplog.at_level(logging.WARNING, "detectflow"):
        done = model(workspace, 1)
    assert done["decision"] == "champion" and "out of ink" in caplog.text
    assert pair_of(workspace) == {} and "Against the champion" in text_of(workspace)


def test_a_registry_that_does_not_take_what_was_gained_is_told(
    workspace, store, monkeypatch, caplog
):
    def refuse(*arguments):
        raise WorkspaceError("no space there")

    model(workspace, 0, shift=2)
    monkeypatch.setattr(version_files, "keep_pair", refuse)
    with caplog.at_level(logging.WARNING, "detectflow"):
        model(workspace, 1)
    assert "detector/2 gained is not in MLflow: no space there" in caplog.text
    assert 'id="gained"' in text_of(workspace)


def test_after_a_roll_back_the_page_says_of_which_moment_it_is_and_made_anew_what_is_now(
    workspace, store
):
    model(workspace, 0, shift=2)
    name = model(workspace, 1)["model"]
    text = text_of(workspace)
    now = datetime.now(UTC)
    moments = [f"{now - timedelta(minutes=m):%Y-%m-%d %H:%M} UTC" for m in range(4)]
    found = re.search(r"As of (.*?)\. What came after: <code>detectflow history (.*?)</code>", text)
    assert found[1] in moments and found[2] == name
    roll_back(name, "worse at night", workspace)
    page, card = write_report(workspace, workspace / "again")
    said = f"{name} version 2 is not the champion any more; version 1 is."
    assert "Promoted, replaced since" in page.read_text(encoding="utf-8")
    assert said in page.read_text(encoding="utf-8") and said in card.read_text(encoding="utf-8")
    assert "rolled back" in page.read_text(encoding="utf-8")


def fail(*arguments):
    raise RuntimeError("out of ink <b>")


def test_a_fault_in_the_report_undoes_no_registration(workspace, store, monkeypatch, caplog):
    monkeypatch.setattr(publish, "page_of", fail)
    with caplog.at_level(logging.WARNING, "detectflow"):
        done = model(workspace, 0)
    assert done["decision"] == "champion"
    assert "page could not be made" in caplog.text and "out of ink" in caplog.text
    assert "No report" in text_of(workspace)  # dvc.yaml promises the file


@pytest.mark.parametrize("part", ["page_of", "card_of", "collect"])
def test_what_fails_leaves_a_file_that_says_why(tmp_path, part, monkeypatch, caplog):
    reports.write_all(tmp_path)
    monkeypatch.setattr(publish, part, fail)
    page, card = publish.write_report(tmp_path, tmp_path / "out", ask=False)
    texts = [file.read_text(encoding="utf-8") for file in (page, card)]
    assert ["could not be made" in text for text in texts] == [part != "card_of", part != "page_of"]
    assert not any("ink <b>" in text for text in texts) and "out of ink" in caplog.text


def test_a_registry_that_does_not_take_the_report_is_told(workspace, store, monkeypatch, caplog):
    def fail(*arguments):
        raise WorkspaceError("no space there")

    monkeypatch.setattr(version_files, "attach", fail)
    with caplog.at_level(logging.WARNING, "detectflow"):
        done = model(workspace, 0)
    assert done["version"] == 1 and "no space there" in caplog.text
    assert "Promoted" in text_of(workspace)


def without_moment(text):
    return re.sub(r"As of .*? UTC\.", "", text)


def test_the_command_makes_it_anew(workspace, store, monkeypatch, capsys):
    model(workspace, 0)
    monkeypatch.chdir(workspace)
    before = without_moment(text_of(workspace))
    assert main(["report", "out=here"]) == 0
    assert capsys.readouterr().out.split() == ["here/index.html", "here/model_card.md"]
    made = (workspace / "here/index.html").read_text(encoding="utf-8")
    assert without_moment(made) == before != made
    assert main(["report", "mlflow=false"]) == 0
    text = (workspace / "runs/report/index.html").read_text(encoding="utf-8")
    assert "Promoted" in text and 'id="history"' not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detector"], "unknown argument detector"),
        (["to=x"], "unknown key 'to'"),
        (["mlflow=perhaps"], "expected true or false"),
    ],
)
def test_a_wrong_request_says_so(arguments, message):
    from engine.cli.report import report

    with pytest.raises(ConfigError, match=message):
        report(arguments)
