"""Stage register: one version for one set of weights, aliases by the metrics, a model that can be
used.
"""

import base64
import json
import shutil
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas
import pytest
import toys
from ruamel.yaml import YAML

from engine.comparison.decision import settle
from engine.config import Params
from engine.data.manifest import class_hash
from engine.errors import ConfigError, WorkspaceError
from engine.files import sha256_file
from engine.registry.history import read_entries
from engine.registry.moves import approve, decline, history_of, promote, roll_back
from engine.registry.registry import aliases_of
from engine.stages import register as stage
from engine.tracking import mlflow_links
from engine.tracking.mlflow_client import open_store

KEYS = (
    "model version aliases decision verdict reason advice metric value champion_version "
    "weights_sha256 onnx_sha256 latency run_id experiment_id at"
).split()


def model(root, seed, shift=0, value=0.5, **quality):
    """Train, export a detector whose boxes lie `shift` pixels beside, and register: AP50-95 is .75,
    .6, .45, .225 at 0, 1, 2, 4 pixels. value: what stage validate had said.
    """
    toys.train(root, epochs=1, seed=seed)
    toys.validate(root, value)
    toys.export(root, shift=shift, **quality)
    return stage.run(toys.params_of(root), root)


def evidence(root):
    """Of the decision that stands, as stage register wrote it."""
    return json.loads((root / "reports" / "decision.json").read_text())


def set_param(root, dotted, value):
    yaml = YAML()
    path = root / "params.yaml"
    values = yaml.load(path)
    section, key = dotted.split(".")
    values[section][key] = value
    yaml.dump(values, path)


def versions(store, name="detector"):
    return sorted(int(v.version) for v in store.client.search_model_versions(f"name = '{name}'"))


def test_three_models_better_and_worse(workspace, store):
    first = model(workspace, 0, shift=2)
    assert (
        list(first) == KEYS
        and json.loads((workspace / "reports" / "registration.json").read_text()) == first
    )
    assert (first["version"], first["decision"], first["champion_version"]) == (1, "champion", None)
    assert first["aliases"] == ["challenger", "champion"]
    better = model(workspace, 1, shift=0)
    assert (better["version"], better["decision"], better["verdict"]) == (2, "champion", "PROMOTE")
    measured = evidence(workspace)["mean"]["AP50-95"]
    assert (better["champion_version"], measured["a"], measured["b"]) == (
        1,
        pytest.approx(0.45),
        pytest.approx(0.75),
    )
    assert aliases_of(store, "detector") == {"champion": "2", "challenger": "2", "previous": "1"}
    worse = model(workspace, 2, shift=1, value=0.55)
    assert (worse["version"], worse["decision"], worse["champion_version"]) == (3, "challenger", 2)
    assert worse["verdict"] == "REJECT" and "-15.0 points" in worse["reason"]
    assert aliases_of(store, "detector") == {"champion": "2", "challenger": "3", "previous": "1"}
    version = store.client.get_model_version("detector", "3")
    run = store.client.get_run(version.run_id)
    assert (run.info.run_id, run.info.experiment_id) == (worse["run_id"], worse["experiment_id"])
    assert (
        run.data.tags["weights_sha256"] == version.tags["weights_sha256"] == worse["weights_sha256"]
    )
    assert run.data.tags["registered"] == "detector version 3 (challenger)"
    assert (
        version.tags["test/mAP50-95"] == "0.5500"
        and version.tags["class_hash"] == class_hash(toys.NAMES)
        and version.tags["onnx_sha256"]
    )
    logged = store.client.get_logged_model(version.source.removeprefix("models:/"))
    assert {m.key: m.value for m in logged.metrics}["test/mAP50-95"] == 0.55


def test_a_version_carries_digests_thresholds_metrics_and_links_and_describes_itself(
    workspace, store
):
    (workspace / "dvc.lock").write_text("schema: '2.0'\n")
    toys.train(workspace, epochs=1)
    toys.validate(workspace, 0.5)
    rows = "name,instances,ap,ap50,precision,recall\ndark|er,3,0.25,0.5,0.75,\nbright,5,0.5,1,1,1\n"
    (workspace / "reports" / "validate" / "per_class.csv").write_text(rows)
    report = workspace / "reports" / "validate" / "metrics.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "metrics/confidence": 0.375}))
    toys.export(workspace)
    done = stage.run(toys.params_of(workspace), workspace)
    version = store.client.get_model_version("detector", "1")
    tags, run = version.tags, store.client.get_run(version.run_id)
    assert (
        tags["weights_sha256"] == done["weights_sha256"]
        and tags["onnx_sha256"] == done["onnx_sha256"]
    )
    assert len(tags["data_digest"]) == len(tags["split_digest"]) == 64
    assert (tags["threshold.conf"], tags["threshold.iou"], tags["threshold.max_det"]) == (
        "0.25",
        "0.7",
        "300",
    )
    assert tags["threshold.conf_of_best_F1"] == "0.3750" and tags["test/mAP50-95"] == "0.5000"
    page = f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{version.run_id}"
    assert tags["run_url"].startswith(page) and tags["report_url"].startswith(f"{page}/artifacts")
    text = version.description
    assert text.startswith("On test: mAP50-95 0.500, mAP50 0.700.") and done["reason"] in text
    assert f"[Training run](#/experiments/{run.info.experiment_id}/runs/{version.run_id}" in text
    row = "| dark\\|er | 3 | 0.250 | 0.500 | 0.750 |  |".replace(" | ", "&emsp; | ")
    assert row in text and "best at conf 0.375" in text
    kept = store.client.list_artifacts(version.run_id, "code")
    assert [each.path for each in kept] == ["code/dvc.lock.yaml"]


def test_a_version_says_its_own_thresholds(workspace, store):
    point = {
        "goal": {"miss": 10, "false_alarm": 1},
        "chosen_on": "val",
        "overall": 0.25,
        "thresholds": [0.125, 0.25],
        "own": [True, False],
        "reached": [True, True],
        "calibration": {
            "method": "temperature",
            "maps": [{"x": [0.0], "y": [0.0], "slope": 0.5}] * 2,
            "own": [True, False],
        },
    }
    model(workspace, 0, point=point)
    version = store.client.get_model_version("detector", "1")
    assert version.tags["threshold.conf"] == "of each class"
    assert version.tags["threshold.goal"] == "lowest cost (miss 10, false alarm 1)"
    assert "dark 0.125, bright 0.250 (of all)" in version.description
    assert "calibrated (temperature)" in version.description
    served = mlflow.pyfunc.load_model("models:/detector/1")
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:24, 40:48] = 26  # bright .1, calibrated to .25 and a little
    text = base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()
    found = served.predict(pandas.DataFrame({"image": [text]}))["detections"][0]
    assert [each["name"] for each in found] == ["bright"] and 0.25 < found[0]["score"] < 0.26


def test_a_later_validation_is_a_run_below_the_training(workspace, store, tmp_path):
    from engine.registry.fetch import fetch, record_validation

    model(workspace, 0)
    (tmp_path / "files").mkdir()
    champion = fetch("detector@champion", workspace)
    made = record_validation(
        champion, {"test/mAP50-95": 0.25}, {}, "detectflow", tmp_path / "files", workspace
    )
    run, parent = store.client.get_run(made), store.client.get_model_version("detector", "1").run_id
    assert run.data.tags["mlflow.parentRunId"] == parent and run.data.metrics == {
        "test/mAP50-95": 0.25
    }
    assert store.client.get_run(parent).data.metrics["test/mAP50-95"] == 0.5


def test_again_changes_nothing(workspace, store):
    first = model(workspace, 0)
    again = stage.run(toys.params_of(workspace), workspace)
    assert versions(store) == [1] and again["decision"] == "champion"
    assert "champion already" in again["reason"] and again["aliases"] == first["aliases"]
    held = model(workspace, 1, marker="the same boxes")
    again = stage.run(toys.params_of(workspace), workspace)
    assert (
        held["verdict"] == again["verdict"] == "HOLD" and evidence(workspace)["asked_now"] is False
    )
    assert evidence(workspace)["verdict"] == "HOLD" and evidence(workspace)["findings"]
    assert (
        held["reason"] in again["reason"] and "detectflow promote detector/2" in again["advice"][0]
    )
    assert [e.what for e in history_of("detector", workspace)[0]] == ["promoted", "held"]


def test_an_alias_taken_away_by_hand_stays_away_and_is_noticed(workspace, store):
    model(workspace, 0)
    store.client.delete_registered_model_alias("detector", "champion")
    again = stage.run(toys.params_of(workspace), workspace)
    assert again["decision"] == "challenger" and "taken back" in again["reason"]
    assert "champion" not in aliases_of(store, "detector")
    for _ in range(2):  # entered once
        entries, _ = history_of("detector", workspace)
        assert [(e.what, e.version, e.before) for e in entries] == [
            ("promoted", "1", ""),
            ("moved by hand", "", "1"),
        ]


def test_a_model_that_finds_nothing_is_registered_but_no_champion(workspace, store):
    done = model(workspace, 0, shift=12, value=0.0)
    assert (done["version"], done["decision"], done["aliases"]) == (
        1,
        "challenger",
        ["challenger"],
    )
    assert done["verdict"] == "REJECT" and "below the floor of 0.1" in done["reason"]
    assert aliases_of(store, "detector") == {"challenger": "1"}
    assert model(workspace, 1, shift=4)["decision"] == "champion"


def test_too_few_test_images_hold_the_first_one_and_say_how_many_are_missing(workspace, store):
    manifest = workspace / "data" / "prepared" / "test.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:8]))
    held = model(workspace, 0)
    assert held["verdict"] == "HOLD" and "8 images of 20" in held["reason"]
    assert "12 further images" in held["advice"][0]
    manifest.write_text("".join(lines))
    assert stage.run(toys.params_of(workspace), workspace)["verdict"] == "PROMOTE"


def test_the_same_weights_in_another_file_are_another_version_but_no_better(workspace, store):
    model(workspace, 0)
    toys.export(workspace, marker="other settings")
    again = stage.run(toys.params_of(workspace), workspace)
    assert (
        versions(store) == [1, 2]
        and again["verdict"] == "HOLD"
        and "not proven better" in again["reason"]
    )


def test_on_test_images_that_have_grown_both_are_measured_and_the_better_one_wins(workspace, store):
    model(workspace, 0, shift=1)
    toys.add_images(workspace / "data" / "prepared", "test", range(5000, 5010))
    now = model(workspace, 1, shift=0)
    assert now["decision"] == "champion" and evidence(workspace)["images"] == 34
    assert evidence(workspace)["mean"]["AP50-95"]["a"] == pytest.approx(0.6)


def test_a_version_rolled_back_stays_away_until_the_test_images_change(workspace, store):
    model(workspace, 0, shift=1)
    model(workspace, 1, shift=0)
    done = roll_back("detector", "misses trucks", workspace)
    assert (done.version, done.before, done.champion) == ("1", "2", "1")
    again = stage.run(toys.params_of(workspace), workspace)
    assert again["decision"] == "challenger" and "misses trucks" in again["reason"]
    assert aliases_of(store, "detector") == {"champion": "1", "challenger": "2"}
    toys.add_images(workspace / "data" / "prepared", "test", [6000])
    assert stage.run(toys.params_of(workspace), workspace)["decision"] == "champion"
    assert aliases_of(store, "detector") == {"champion": "2", "challenger": "2", "previous": "1"}
    assert [e.what for e in history_of("detector", workspace)[0]] == [
        "promoted",
        "promoted",
        "rolled back",
        "promoted",
    ]


def test_what_a_person_decides_outweighs_the_gates_and_says_who_and_why(workspace, store):
    model(workspace, 0, shift=0)
    model(workspace, 1, shift=4)
    done = promote("detector/2", "the only one that is fast enough", workspace)
    assert done.champion == "2" and aliases_of(store, "detector")["previous"] == "1"
    last = history_of("detector", workspace)[0][-1]
    assert (last.what, last.version, last.before) == ("promoted", "2", "1")
    assert last.by and last.why == "the only one that is fast enough" and last.at
    assert promote("detector@champion", "again", workspace).entry is None
    again = stage.run(toys.params_of(workspace), workspace)
    assert "champion already" in again["reason"] and again["decision"] == "champion"
    store.client.set_registered_model_alias("detector", "champion", "1")  # by hand in the UI
    entries, _ = history_of("detector", workspace)
    assert (entries[-1].what, entries[-1].version, entries[-1].before) == (
        "moved by hand",
        "1",
        "2",
    )


def test_a_promotion_by_hand_binds_the_next_run(workspace, store):
    model(workspace, 0, shift=2)
    model(workspace, 1, shift=0)
    promote("detector/1", "the new one misses trucks", workspace)
    again = stage.run(toys.params_of(workspace), workspace)
    assert again["verdict"] == "REJECT" and "misses trucks" in again["reason"]
    assert aliases_of(store, "detector") == {"champion": "1", "challenger": "2"}
    approve("detector/2", "not so", workspace)
    assert stage.run(toys.params_of(workspace), workspace)["decision"] == "champion"


def test_the_history_outlives_a_champion_deleted_in_mlflow_and_nobody_slips_in(workspace, store):
    model(workspace, 0, shift=2)
    model(workspace, 1, shift=0)
    store.client.delete_model_version("detector", "2")
    held = model(workspace, 2, shift=4)
    assert held["verdict"] == "REJECT" and "worse" in held["reason"]  # than version 1
    held = model(workspace, 3, shift=1)
    assert held["verdict"] == "HOLD" and "version 2 had been deleted in MLflow" in held["reason"]
    assert "detectflow approve detector/4" in held["advice"][0]
    assert aliases_of(store, "detector") == {"challenger": "4", "previous": "1"}
    entries, _ = history_of("detector", workspace)
    assert [(e.what, e.version, e.before) for e in entries[:3]] == [
        ("promoted", "1", ""),
        ("promoted", "2", "1"),
        ("moved by hand", "", "2"),
    ]
    assert roll_back("detector", "until we know", workspace).champion == "1"
    assert stage.run(toys.params_of(workspace), workspace)["decision"] == "champion"
    assert aliases_of(store, "detector") == {"champion": "4", "challenger": "4", "previous": "1"}


def test_a_move_that_was_cut_off_is_entered_as_it_was_meant(workspace, store, monkeypatch):
    model(workspace, 0, shift=2)
    model(workspace, 1, shift=4)
    from engine.registry import history

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(history, "add", killed)
        promote("detector/2", "faster", workspace)
    assert aliases_of(store, "detector")["champion"] == "2"
    entries, _ = history_of("detector", workspace)
    assert [(e.what, e.version, e.why) for e in entries[2:]] == [("promoted", "2", "faster")]
    for version in ("1", "2"):  # by hand, in MLflow
        store.client.set_registered_model_alias("detector", "champion", version)
        entries, _ = history_of("detector", workspace)
        assert (entries[-1].what, entries[-1].version) == ("moved by hand", version)


def test_a_version_whose_file_is_gone_is_not_promoted(workspace, store):
    model(workspace, 0, shift=1)
    model(workspace, 1, shift=4)
    (kept,) = [v for v in store.client.search_model_versions("name='detector'") if v.version == 2]
    digest = kept.tags["onnx_sha256"]
    for file in [*workspace.rglob("*.onnx")]:
        if sha256_file(file) == digest:
            file.unlink()
    with pytest.raises(WorkspaceError, match="version 2"):
        promote("detector/2", "better", workspace)
    assert aliases_of(store, "detector")["champion"] == "1"


def test_a_version_of_another_dataset_is_not_decided_on_this_one(workspace, store):
    model(workspace, 0)
    about = workspace / "data" / "prepared" / "dataset.json"
    about.write_text(about.read_text().replace('"squares"', '"circles"'))
    with pytest.raises(ConfigError, match="detector/1 is of the dataset 'squares'"):
        settle("detector", "1", toys.params_of(workspace), workspace, "me")


def test_a_gate_that_asks_a_person_waits_for_the_yes(workspace, store):
    set_param(workspace, "register.gate", ["min_test", "approval"])
    held = model(workspace, 0)
    assert held["verdict"] == "HOLD" and "detectflow approve detector/1" in held["advice"][0]
    done = approve("detector/1", "looked at all of it", workspace)
    assert done.entry.by
    assert stage.run(toys.params_of(workspace), workspace)["decision"] == "champion"


def test_images_that_one_of_the_two_was_trained_on_do_not_count(workspace, store):
    model(workspace, 0, shift=1)
    prepared = workspace / "data" / "prepared"
    (prepared / "train.jsonl").write_text(
        (prepared / "test.jsonl").read_text().splitlines(keepends=True)[0]
    )
    model(workspace, 1, shift=0)
    assert evidence(workspace)["images"] == 23
    assert [len(v) for v in evidence(workspace)["left_out"].values()] == [1]
    assert "detector/2 was trained on it" in evidence(workspace)["left_out"]


def test_a_champion_whose_file_is_gone_is_an_error_and_moves_nothing(workspace, store):
    model(workspace, 0, shift=1)
    for file in (workspace / "mlartifacts").rglob("*.onnx"):
        file.unlink()
    shutil.rmtree(workspace / ".cache" / "models")
    before = aliases_of(store, "detector")
    toys.train(workspace, epochs=1, seed=1)
    toys.validate(workspace)
    toys.export(workspace)
    with pytest.raises(WorkspaceError, match="the champion, version 1 of 'detector', cannot be"):
        stage.run(toys.params_of(workspace), workspace)
    assert aliases_of(store, "detector") | {"challenger": ""} == before | {"challenger": ""}


def test_somebody_else_who_moves_the_champion_meanwhile_wins(workspace, store, monkeypatch):
    model(workspace, 0, shift=2)
    model(workspace, 1, shift=1)
    from engine.comparison import decision

    decide = decision.decide

    def slow(*asked):
        promote("detector/1", "meanwhile", workspace)
        return decide(*asked)

    monkeypatch.setattr(decision, "decide", slow)
    with pytest.raises(WorkspaceError, match="version 1 became champion"):
        model(workspace, 2, shift=0)
    assert aliases_of(store, "detector")["champion"] == "1"


def test_the_champion_predicts_by_its_alias(workspace):
    model(workspace, 0)
    mlflow.set_tracking_uri(f"sqlite:///{workspace}/mlflow.db")
    try:
        loaded = mlflow.pyfunc.load_model("models:/detector@champion")
    finally:
        mlflow.set_tracking_uri(None)
    first = min((workspace / "data" / "prepared" / "images" / "test").iterdir())
    content = first.read_bytes()
    found = loaded.predict(pandas.DataFrame({"image": [base64.b64encode(content).decode()]}))[
        "detections"
    ][0]
    assert found[0]["name"] == "bright" and found[0]["score"] > 0.8
    example = loaded.input_example
    assert base64.b64decode(example["image"][0]) == content


def test_without_tracking_it_still_registers_and_makes_no_run(workspace, store, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_TRACKING", "off")
    toys.train(workspace, epochs=1)
    toys.validate(workspace)
    toys.export(workspace)
    for run in store.client.search_runs(
        [e.experiment_id for e in store.client.search_experiments()]
    ):
        store.client.delete_run(
            run.info.run_id
        )  # the toys track whatever the variable says; the runner asks it
    done = stage.run(toys.params_of(workspace), workspace)
    assert (
        done["decision"] == "champion"
        and not store.client.get_model_version("detector", "1").run_id
    )
    assert not store.client.search_runs(
        [e.experiment_id for e in store.client.search_experiments()]
    )


def test_weights_without_a_run_get_one_when_they_are_registered(workspace, fresh_database):
    model(workspace, 0)
    shutil.copy(fresh_database, workspace / "mlflow.db")
    assert stage.run(toys.params_of(workspace), workspace)["version"] == 1
    store = open_store(workspace)
    run = store.client.get_run(store.client.get_model_version("detector", "1").run_id)
    assert run.info.status == "FINISHED" and "restored" in run.data.tags["origin"]


@pytest.mark.system
def test_over_a_server_the_model_is_uploaded_and_can_be_loaded(workspace, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    set_param(workspace, "register.model", "over http")
    done = model(workspace, 0)
    assert done["decision"] == "champion" and not (workspace / "mlartifacts").exists()
    loaded = mlflow.pyfunc.load_model("models:/over http@champion")
    assert loaded.metadata.metadata["weights_sha256"] == done["weights_sha256"]
    params = Params.load(workspace / "params.yaml")
    assert mlflow_links.registered(workspace, params)
    assert mlflow_links.experiment_url("detectflow", server.uri, workspace).startswith(
        f"{server.uri}/#/experiments/1/runs"
    )
    reported = json.loads((workspace / "reports" / "registration.json").read_text())
    (workspace / "reports" / "registration.json").write_text(json.dumps({**reported, "version": 9}))
    assert not mlflow_links.registered(workspace, params)


def test_no_server_is_an_error_in_words_and_soon(workspace, monkeypatch):
    model(workspace, 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(WorkspaceError, match="MLFLOW_TRACKING_URI"):
        stage.run(toys.params_of(workspace), workspace)


@pytest.fixture
def exported(workspace):
    toys.train(workspace, epochs=1)
    toys.validate(workspace)
    toys.export(workspace)
    return workspace


def test_no_onnx_says_which_setting_to_change(exported):
    report = exported / "reports" / "export.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "files": {"safetensors": {}}}))
    set_param(exported, "export.formats", ["safetensors"])
    with pytest.raises(ConfigError, match=r"export.formats: \[safetensors\]"):
        stage.run(toys.params_of(exported), exported)


def test_a_figure_that_is_not_measured_names_the_nearest(exported):
    set_param(exported, "register.metric", "metrics/map50")
    with pytest.raises(ConfigError, match="Did you mean 'metrics/mAP50'"):
        stage.run(toys.params_of(exported), exported)


def test_a_name_mlflow_does_not_take_is_refused(exported):
    set_param(exported, "register.model", "a/b")
    with pytest.raises(ConfigError, match="register.model"):
        stage.run(toys.params_of(exported), exported)


def test_reports_of_other_weights_are_refused(exported):
    report = exported / "reports" / "validate" / "metrics.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "weights_sha256": "0" * 64}))
    with pytest.raises(WorkspaceError, match="stage validate again"):
        stage.run(toys.params_of(exported), exported)


def test_a_file_changed_after_its_export_is_refused(exported):
    with (exported / "export" / "best.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(WorkspaceError, match="stage export again"):
        stage.run(toys.params_of(exported), exported)


def test_a_model_of_other_classes_than_the_data_is_refused_and_the_models_own_hash_is_kept(
    exported, store
):
    """Prepared again with classes in another order since the export: the version would say what its
    numbers do not mean.
    """
    import onnx

    file, report = exported / "export" / "best.onnx", exported / "reports" / "export.json"

    def say(class_hash: str, removed: str = "class_hash") -> None:
        model = onnx.load(file)
        kept = [each for each in model.metadata_props if each.key not in {"class_hash", removed}]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key="class_hash", value=class_hash)
        onnx.save(model, file)
        reported = json.loads(report.read_text())
        reported["files"]["onnx"]["sha256"] = sha256_file(file)
        report.write_text(json.dumps(reported))

    say("0ther")
    with pytest.raises(
        WorkspaceError,
        match="classes have hash 0ther, those of .*prepared have 2c94604f3b0aea7e: .*prepared "
        "again.*detectflow run",
    ):
        stage.run(toys.params_of(exported), exported)
    say("2c94604f3b0aea7e")
    done = stage.run(toys.params_of(exported), exported)
    assert (
        store.client.get_model_version(done["model"], str(done["version"])).tags["class_hash"]
        == "2c94604f3b0aea7e"
    )
    say("2c94604f3b0aea7e", removed="needs_nms")
    with pytest.raises(WorkspaceError, match="exported by an older version.*stage export again"):
        stage.run(toys.params_of(exported), exported)


def test_whether_it_is_still_registered_is_known_without_mlflow(workspace):
    params = toys.params_of(workspace)
    assert not mlflow_links.registered(workspace, params)  # never was
    assert (
        mlflow_links.experiment_url("detectflow", root=workspace)
        == "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
    )
    model(workspace, 0)
    assert mlflow_links.registered(workspace, params)
    url = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
    assert mlflow_links.experiment_url("detectflow", root=workspace) == url
    assert not mlflow_links.registered(workspace, Params.build({"register": {"model": "another"}}))
    (workspace / "mlflow.db").rename(workspace / "mlflow.db.away")
    assert not mlflow_links.registered(workspace, params)
    (workspace / "mlflow.db").touch()
    assert not mlflow_links.registered(workspace, params)


def test_a_database_deleted_by_hand_is_made_again(workspace):
    model(workspace, 0)
    (workspace / "mlflow.db").unlink()
    assert stage.run(toys.params_of(workspace), workspace)["version"] == 1


def test_without_images_at_hand_the_example_is_grey_and_a_large_image_is_made_smaller(exported):
    from engine.stages.layout import Layout

    images = exported / "data" / "prepared" / "images" / "test"
    for file in images.iterdir():
        file.unlink()
    grey = decoded(stage.make_candidate(toys.params_of(exported), Layout(exported)).example)
    assert grey.shape == (160, 160, 3) and np.ptp(grey) == 0
    noise = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)
    assert (
        cv2.imwrite(str(images / "large.png"), noise)
        and (images / "large.png").stat().st_size > stage.EXAMPLE_BYTES
    )
    example = stage.make_candidate(toys.params_of(exported), Layout(exported)).example
    assert len(example) < stage.EXAMPLE_BYTES and decoded(example).shape == (160, 160, 3)


def decoded(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def page(store, version=None):
    if version is None:
        return store.client.get_registered_model("detector").description
    return store.client.get_model_version("detector", version).description


def test_the_pages_in_mlflow_say_what_the_registry_says_after_every_move(workspace, store):
    set_param(workspace, "register.gate", ["min_test", "approval"])
    model(workspace, 0)
    assert "**held on " in page(store, "1") and "There is **no champion**." in page(store)
    approve("detector/1", "looked at | all of it", workspace)
    assert "**approved on " in page(store, "1") and "looked at \\| all of it" in page(store)
    stage.run(toys.params_of(workspace), workspace)
    assert "**promoted on " in page(store, "1") and "Champion: **version 1**." in page(store)
    store.client.update_registered_model("detector", f"Ours.\n\n{page(store)}\n### Use\n\nHere.\n")
    model(workspace, 1)
    promote("detector/2", "by eye", workspace)
    assert "**replaced by version 2 on " in page(store, "1")
    assert "by eye" in store.client.get_model_version("detector", "2").tags["decision"]
    roll_back("detector", "misses trucks", workspace)
    assert "**rolled back, version 1 is champion on " in page(store, "2")
    assert page(store, "2").startswith("On test: mAP50-95 ")
    assert page(store, "2").count("### Decisions") == 1
    text = page(store)
    assert text.startswith("Ours.") and text.rstrip().endswith("### Use\n\nHere.")
    assert text.count("### History") == 1 and "Champion: **version 1**." in text


def test_a_no_stands_until_somebody_says_yes(workspace, store):
    set_param(workspace, "register.gate", ["min_test", "approval"])
    held = model(workspace, 0)
    assert held["verdict"] == "HOLD"
    done = decline("detector/1", "misses night images", workspace, by="Jo")
    assert (done.entry.what, done.entry.by) == ("rejected", "Jo")
    assert decline("detector/1", "again", workspace).entry is None, "it waits for nobody now"
    again = stage.run(toys.params_of(workspace), workspace)
    assert again["verdict"] == "REJECT" and "misses night images" in again["reason"]
    approve("detector/1", "on second thoughts", workspace)
    assert stage.run(toys.params_of(workspace), workspace)["decision"] == "champion"


def test_a_long_history_fits_into_mlflows_description(workspace, store):
    model(workspace, 0)
    model(workspace, 1)
    for number in range(8):
        promote(f"detector/{2 - number % 2}", f"{number} " + "why " * 200, workspace)
    for text in (page(store), page(store, "1"), page(store, "2")):
        assert len(text) <= 5000 and "7 why" in text and " earlier: `detectflow history`" in text


def test_the_state_of_a_model_is_read_without_mlflow(workspace, store):
    assert mlflow_links.model_state(workspace, "detector").aliases == {}
    model(workspace, 0)
    state = mlflow_links.model_state(workspace, "detector")
    assert state.aliases == aliases_of(store, "detector")
    assert read_entries(state.tags) == history_of("detector", workspace)[0]


def test_latency_is_measured_in_turns_where_its_gate_is_listed(workspace, store):
    set_param(workspace, "register.gate", ["min_test", {"latency": {"ratio": 1000.0}}])
    model(workspace, 0, shift=1)
    assert evidence(workspace)["latency_ms"] is None
    model(workspace, 1, shift=0)
    found = evidence(workspace)["latency_ms"]
    assert found["a"] > 0 and found["b"] > 0 and found["low"] <= found["b"] - found["a"]
    assert found["high"] >= found["b"] - found["a"] and found["groups"] >= 5
    (said,) = [f for f in evidence(workspace)["findings"] if f["gate"] == "latency"]
    assert said["verdict"] == "PROMOTE" and "ms an image" in said["reason"]


def test_registered_models_are_named_wherever_a_model_is(workspace, store, monkeypatch):
    from engine.registry.fetch import fetch_weights, file_of, is_reference

    done = model(workspace, 0)
    monkeypatch.chdir(workspace)
    onnx, weights = file_of("detector@champion"), file_of("models:/detector/1", weights=True)
    assert sha256_file(onnx) == done["onnx_sha256"]
    assert sha256_file(weights) == done["weights_sha256"]
    kept = fetch_weights("detector/1", workspace)
    assert kept.name == "detector-1.pt" and kept.is_relative_to(workspace / ".cache")
    assert not any(map(is_reference, ["yolov8n", "weights/best.pt", "a@b.pt", "data/prepared"]))
    (workspace / "detector").mkdir()
    (workspace / "detector" / "1").write_text("a file comes first")
    assert file_of("detector/1") == "detector/1"
    for wrong, said in [("detector@champ", "Did you mean 'champion'"), ("detektor@x", "detector")]:
        with pytest.raises(ConfigError, match=said):
            file_of(wrong)


@pytest.mark.parametrize(
    ("dataset", "name"), [("my data@home/2", "my-data-home-2"), ("@parts@", "parts"), ("@//", None)]
)
def test_a_dataset_gives_its_models_a_name_that_a_reference_can_say(dataset, name, workspace):
    from engine.registry.fetch import REFERENCE
    from engine.tracking.model_name import registered_name

    set_param(workspace, "register.model", None)
    about = workspace / "data" / "prepared" / "dataset.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "name": dataset}))
    if name is None:
        with pytest.raises(ConfigError, match="'@//', is none for a registered model"):
            registered_name(toys.params_of(workspace), workspace)
        return
    assert registered_name(toys.params_of(workspace), workspace) == name
    assert REFERENCE.fullmatch(f"{name}@champion")["name"] == name


def test_a_fetched_model_is_exported_where_people_look(workspace, store, monkeypatch):
    from engine.registry.fetch import file_of
    from engine.stages.places import export_folder

    model(workspace, 0)
    monkeypatch.chdir(workspace)
    weights = Path(file_of("detector@champion", weights=True))
    assert export_folder(weights, None) == workspace / "runs" / "export"
    assert export_folder(weights, "elsewhere") == Path("elsewhere")


def test_compare_without_names_is_champion_and_challenger(workspace, store, monkeypatch, capsys):
    from engine.cli import main

    model(workspace, 0, shift=0)
    model(workspace, 1, shift=2)  # worse: the advice says `detectflow compare`
    monkeypatch.chdir(workspace)
    assert main(["compare", f"out={workspace / 'out'}"]) == 0
    assert "detector/2 against detector/1" in capsys.readouterr().out


def test_weights_that_are_nowhere_say_where_they_were_looked_for(workspace, store, monkeypatch):
    from engine.registry.fetch import fetch_weights

    model(workspace, 0)
    for file in (*(workspace / "weights").glob("*.pt"), *workspace.rglob("checkpoints/*.pt")):
        file.unlink()
    with pytest.raises(WorkspaceError, match=r"neither in its MLflow run nor in .*dvc pull"):
        fetch_weights("detector@champion", workspace)


def test_a_held_version_is_decided_again_by_a_command_when_images_have_come(
    workspace, store, monkeypatch, capsys
):
    from engine.cli import main

    model(workspace, 0, shift=2)
    monkeypatch.chdir(workspace)
    set_param(workspace, "register.gate", [{"min_test": {"images": 30}}, "better"])
    held = model(workspace, 1, shift=0)
    assert held["verdict"] == "HOLD" and "detectflow promote detector/2" in held["advice"][-1]
    assert main(["decide"]) == 0
    said = capsys.readouterr().out
    assert "Nothing is decided anew" in said and "version 1 is champion" in said
    toys.add_images(workspace / "data" / "prepared", "test", range(5000, 5010))
    assert main(["decide", "detector/2"]) == 0
    said = capsys.readouterr().out
    assert "PROMOTE" in said and "version 2 is champion" in said and "on 34 images" in said
    assert aliases_of(store, "detector")["champion"] == "2"
    run_id = store.client.get_model_version("detector", "2").run_id
    kept = [each.path for each in store.client.list_artifacts(run_id, "decisions")]
    assert [path.endswith("-pair") for path in kept].count(True) == 2, "of the HOLD and of now"
    assert [e.what for e in history_of("detector", workspace)[0]] == [
        "promoted",
        "held",
        "promoted",
    ]
    assert main(["decide", "detector/1"]) == 0  # the challenger stays the one presented last
    assert aliases_of(store, "detector")["challenger"] == "2"
