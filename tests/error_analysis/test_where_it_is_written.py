"""Stage validate and `detectflow compare` with a real network: what they leave behind."""

import hashlib
import json
import shutil

import pytest
from detectors import NAMES
from label_cases_of_two import dataset

from engine.cli import main
from engine.config import DataConfig, Params
from engine.data.manifest import load_prepared
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.stages import validate


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, random_weights):
    """What stages prepare and train leave, with a random network."""
    root = tmp_path_factory.mktemp("errors")
    source = dataset(root / "source", 30, NAMES)
    prepare(load_description(source), root / "data" / "prepared", DataConfig(test_fraction=0.5))
    (root / "weights").mkdir()
    shutil.copy(random_weights, root / "weights" / "best.pt")
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    report = root / "reports" / "train" / "metrics.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"weights_sha256": digest}))
    return root


def run(root, **settings):
    validate.run(Params.model_validate({"validate": {"device": "cpu", **settings}}), root)
    return json.loads((root / "reports" / "validate" / "errors.json").read_text())


def test_stage_validate_writes_the_errors_of_the_split_with_images(workspace):
    found = run(workspace)
    folder = workspace / "reports" / "validate"
    images = load_prepared(workspace / "data" / "prepared").counts["test"]["images"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (found["split"], found["images"]) == ("test", images)
    assert found["ap50"] == pytest.approx(metrics["metrics/mAP50"], abs=2e-6)
    assert found["hardest"] and (folder / found["hardest"][0]["picture"]).is_file()
    assert str(workspace) not in (folder / "errors.json").read_text()  # the same on every machine
    written = {f"errors/{file.name}" for file in (folder / "errors").iterdir()}
    rows = [*found["hardest"], *found["label_errors"]]
    assert written == {row["picture"] for row in rows if row["picture"]}


def test_without_plots_there_are_the_values_alone(workspace):
    found = run(workspace, plots=False, split="train")
    assert found["split"] == "train" and not any(row["picture"] for row in found["hardest"])
    assert not (workspace / "reports" / "validate" / "errors").exists()


def test_compare_says_what_is_gained_and_takes_kept_results_the_next_time(
    workspace, random_weights, tmp_path, capsys, monkeypatch
):
    from engine.comparison import measure

    silent = tmp_path / "silent.json"
    silent.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    words = [f"data={workspace / 'data' / 'prepared'}", f"out={tmp_path / 'out'}"]
    monkeypatch.setattr("engine.project.environment.state_root", lambda root: tmp_path)
    found = []
    for _ in range(2):
        assert main(["compare", str(silent), str(random_weights), *words]) == 0
        found.append(json.loads((tmp_path / "out" / "errors.json").read_text()))
        # the second time the network must not be asked
        monkeypatch.setattr(measure, "validator_class_of", None)
    assert found[0] == found[1]
    pair = found[0]
    assert pair["a"] == "silent.json" and pair["b"].endswith("best.pt")
    assert all(row["lost"] == row["both"] == 0 for row in pair["classes"])
    for row in (*pair["gained"], *pair["lost"]):
        assert row["picture"] is None or (tmp_path / "out" / row["picture"]).is_file()
    assert "images better" in capsys.readouterr().out
