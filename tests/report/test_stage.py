"""Stage register makes the report, MLflow keeps it, the command makes it again; a fault in it undoes
nothing.
"""

import logging

import pytest
import reports
import toys

from engine.cli import main
from engine.errors import ConfigError, WorkspaceError
from engine.registry import version_files
from engine.report import publish
from engine.stages import register as stage


def model(root, seed, shift=0):
    """Train, export and register a detector whose boxes lie `shift` pixels beside."""
    toys.train(root, epochs=1, seed=seed)
    toys.validate(root)
    toys.export(root, shift=shift)
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


def test_what_was_trained_on_since_the_champion_is_counted(workspace, store):
    model(workspace, 0, shift=2)
    toys.add_images(workspace / "data/prepared", "train", range(40, 43))
    model(workspace, 1)
    assert "3 added, 0 removed, 2 kept" in text_of(workspace)


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


def test_the_command_makes_it_anew(workspace, store, monkeypatch, capsys):
    model(workspace, 0)
    monkeypatch.chdir(workspace)
    before = text_of(workspace)
    assert main(["report", "out=here"]) == 0
    assert capsys.readouterr().out.split() == ["here/index.html", "here/model_card.md"]
    assert (workspace / "here/index.html").read_text(encoding="utf-8") == before
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
