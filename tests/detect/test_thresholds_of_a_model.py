"""A detector's thresholds: chosen when it is trained, carried by its files, used by predictions."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.config import ExportConfig, Params
from engine.config.goal import Goal, read_goal
from engine.config.sections import DataConfig
from engine.core.checkpoint import load_checkpoint, save_checkpoint
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from engine.detect.choose_point import point_of, settle_point
from engine.detect.operating_point import select
from engine.detect.report_point import report_point
from engine.detect.runtime import load_runtime
from engine.errors import CheckpointError, WorkspaceError
from engine.export import Exporter
from engine.files import sha256_file
from engine.metrics.operating_point import KEY, OperatingPoint
from engine.metrics.score_maps import Calibration, ScoreMap
from engine.models.nms import nms
from engine.stages import export, validate
from engine.stages.layout import Layout, write_json

LINE = ScoreMap((0.0,), (1.0,), 0.5)


def point(thresholds, maps=None, goal="max_f1"):
    number = len(thresholds)
    maps = maps or (ScoreMap(),) * number
    calibration = Calibration("logistic", tuple(maps), (True,) * number)
    yes = (True,) * number
    return OperatingPoint(read_goal(goal), "val", 0.5, tuple(thresholds), yes, yes, calibration)


@pytest.fixture(scope="module")
def with_point(trained, tmp_path_factory):
    """The trained detector with thresholds and a calibration set by hand; (file, point)."""
    file = tmp_path_factory.mktemp("point") / "best.pt"
    mine = point([0.55, 0.4], [LINE, ScoreMap((-1.0, 1.0), (-2.0, 2.5))])
    checkpoint = load_checkpoint(trained[1].best)
    checkpoint.meta[KEY] = mine.to_dict()
    save_checkpoint(checkpoint, file)
    return file, mine


def test_training_chooses_on_val_and_writes_it_into_the_best_weights(trained):
    trainer, result = trained
    meta = load_checkpoint(result.best).meta
    found = OperatingPoint.from_dict(meta[KEY], 2)
    assert (found.goal, found.chosen_on) == (Goal(), "val")
    assert found == point_of(trainer.validator, Goal())  # what the final validation found
    assert KEY not in load_checkpoint(result.last).meta  # it is of the best weights
    assert result.best_sha256 == json.loads(result.best.with_suffix(".json").read_text())["sha256"]


def test_metrics_of_a_model_do_not_depend_on_it(trained, with_point, shapes):
    settings = {"split": "test"}
    plain = DetectionValidator(overrides=settings)(model=trained[1].best, data=shapes)
    assert DetectionValidator(overrides=settings)(model=with_point[0], data=shapes) == plain


def every_score(file, images):
    """What the predictor reports from score .001 on, without any operating point."""
    predictor = DetectionPredictor(
        {"model": str(file), "save": False, "verbose": False, "conf": 0.001}
    )
    predictor.setup()
    predictor.model = replace(predictor.model, operating_point=None)
    return predictor(images)


@pytest.fixture(scope="module")
def images(shapes):
    return [str(file) for file in sorted((shapes / "images" / "test").iterdir())]


@pytest.mark.parametrize("conf", [None, 0.5, 0.35])
def test_predictions_are_calibrated_and_cut_at_the_thresholds(with_point, images, conf):
    file, mine = with_point
    given = {} if conf is None else {"conf": conf}
    predictor = DetectionPredictor({"model": str(file), "save": False, "verbose": False, **given})
    results = predictor(images)
    thresholds = np.array(mine.thresholds if conf is None else [conf, conf])
    count = 0
    for result in results:
        assert (result.scores > thresholds[result.classes] - 1e-6).all()
        count += len(result)
    # What they are calibrated from: the network's own scores, of each class by itself.
    runtime = load_runtime(file, "cpu")
    predictor.setup()
    raw = 0
    for result in results:
        views = list(predictor.views(_frame(result)))
        boxes, scores = runtime(predictor.preprocess(batch=views))
        calibrated = torch.stack(
            [
                torch.from_numpy(m(scores[0, :, c].numpy()))
                for c, m in enumerate(mine.calibration.maps)
            ],
            1,
        ).float()
        above = torch.where(calibrated > torch.tensor(thresholds).float(), calibrated, 0.0)
        _, values, kinds = nms(boxes, above[None], 0.0, 0.7, multi_label=False)[0]
        assert values.numpy() == pytest.approx(result.scores, abs=1e-5)
        assert kinds.tolist() == result.classes.tolist()
        raw += len(values)
    assert raw == count > 0


def _frame(result):
    from engine.detect.sources import open_source

    return next(iter(open_source(str(result.path))))


def test_the_thresholds_are_told_in_a_line(with_point, images, caplog):
    with caplog.at_level(logging.INFO):
        DetectionPredictor({"model": str(with_point[0]), "save": False})(images[:1])
    said = "thresholds of the model (max_f1, chosen on val): square 0.55, disc 0.40; conf= sets"
    assert said in caplog.text


def test_a_model_without_thresholds_is_used_as_before(trained, images, tmp_path):
    checkpoint = load_checkpoint(trained[1].best)
    del checkpoint.meta[KEY]
    save_checkpoint(checkpoint, tmp_path / "old.pt")
    settings = {"model": str(tmp_path / "old.pt"), "save": False, "verbose": False}
    default, same = (
        DetectionPredictor({**settings, **conf})(images) for conf in ({}, {"conf": 0.25})
    )
    assert [r.to_dict() for r in default] == [r.to_dict() for r in same]
    low = every_score(trained[1].best, images)
    assert sum(map(len, default)) == sum(int((r.scores > 0.25).sum()) for r in low)


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_exported_files_carry_it(with_point, images, tmp_path, format):
    file, mine = with_point
    report = Exporter(ExportConfig(check_images=1))(file, format, tmp_path)
    assert load_runtime(report.path, "cpu").operating_point == mine
    settings = {"save": False, "verbose": False}
    ours, theirs = (
        DetectionPredictor({"model": str(each), **settings})(images) for each in (file, report.path)
    )
    assert sum(map(len, ours)) > 0
    for a, b in zip(ours, theirs):
        assert a.classes.tolist() == b.classes.tolist()
        assert a.scores == pytest.approx(b.scores, abs=1e-3)


def test_an_export_takes_another_one_in_its_place(with_point, tmp_path):
    other = point([0.9, 0.8], goal="precision>=0.9")
    exporter = Exporter(ExportConfig(check_images=1), other.to_dict())
    report = exporter(with_point[0], "safetensors", tmp_path)
    assert load_runtime(report.path, "cpu").operating_point == other


def test_a_damaged_one_is_named_with_its_file(trained, tmp_path):
    checkpoint = load_checkpoint(trained[1].best)
    checkpoint.meta[KEY] = {**point([0.5]).to_dict()}
    save_checkpoint(checkpoint, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt.*of 1 classes, the model of 2"):
        load_runtime(tmp_path / "bad.pt", "cpu")


# After a validation -------------------------------------------------------------------------------


def test_another_goal_is_chosen_on_val_without_training(trained, shapes, tmp_path):
    best = trained[1].best
    own = OperatingPoint.from_dict(load_checkpoint(best).meta[KEY], 2)
    for goal in ("max_f1", "recall>=0.5", {"miss": 10, "false_alarm": 1}):
        validator = DetectionValidator(overrides={"split": "test", "goal": goal})
        validator(model=best, data=shapes)
        found = settle_point(validator, best, shapes)
        assert (found.goal, found.chosen_on) == (read_goal(goal), "val")
        assert (found == own) == (goal == "max_f1")
        if goal == "recall>=0.5":
            on_val = DetectionValidator(overrides={"split": "val"})
            on_val(model=best, data=shapes)
            assert found == point_of(on_val, read_goal(goal))
            written = report_point(validator, found, tmp_path)
            assert (written["chosen_on"], written["reported_on"]) == ("val", "test")


def test_reports_are_files(trained, shapes, tmp_path):
    validator = DetectionValidator(overrides={"split": "val"})
    validator(model=trained[1].best, data=shapes)
    report = report_point(validator, point_of(validator, Goal()), tmp_path)
    assert any("chosen on (val)" in warning for warning in report["warnings"])
    written = json.loads((tmp_path / "operating_point.json").read_text())
    assert [row["name"] for row in written["classes"]] == ["square", "disc"]
    rows = (tmp_path / "operating_point.csv").read_text().splitlines()
    assert rows[0].startswith("name,threshold,") and len(rows) == 3
    assert (tmp_path / "reliability.png").is_file()


def test_thresholds_below_what_was_measured_are_told(trained, shapes, tmp_path):
    """With a conf of its own a validation has not seen what the lower thresholds let through."""
    validator = DetectionValidator(overrides={"split": "test", "conf": 0.3})
    validator(model=trained[1].best, data=shapes)
    report = report_point(validator, point((0.2, 0.6)), tmp_path)
    (said,) = report["warnings"]
    assert "below conf=0.3" in said and "of square lie" in said
    assert report_point(validator, point((0.4, 0.6)), tmp_path)["warnings"] == []


@pytest.fixture
def handed_over(trained, shapes, tmp_path):
    """A workspace after stage train."""
    layout = Layout(tmp_path)
    prepare(load_description(shapes), layout.prepared, DataConfig())
    layout.weights.mkdir()
    shutil.copyfile(trained[1].best, layout.best)
    sha256 = sha256_file(layout.best)
    for file, values in (
        (layout.summary("train"), {}),
        (layout.origin("train"), {"weights_sha256": sha256}),
    ):
        write_json(file, values)
    return layout


def test_stage_validate_chooses_for_its_goal_and_stage_export_writes_it(handed_over):
    layout, root = handed_over, handed_over.root
    settings = {
        "validate": {"goal": "recall>=0.5", "plots": True},
        "export": {"check_images": 1, "formats": ["onnx"]},
    }
    params = Params.build(settings)
    metrics = validate.run(params, root)
    folder = layout.reports / "validate"
    report = json.loads((folder / "operating_point.json").read_text())
    assert (report["goal"], report["reported_on"]) == ("recall>=0.5", "test")
    assert (folder / "reliability.png").is_file() and (folder / "operating_point.csv").is_file()
    export.run(params, root)
    chosen = json.loads(layout.thresholds.read_text())[KEY]
    runtime = load_runtime(layout.export / "best.onnx", "cpu")
    assert runtime.operating_point == OperatingPoint.from_dict(chosen, 2)
    # Another goal: other thresholds, the same metrics, and no training.
    again = validate.run(Params.build({"validate": {"goal": "max_f1"}}), root)
    assert again == metrics and json.loads(layout.thresholds.read_text())[KEY] != chosen


def test_stage_export_refuses_thresholds_of_other_weights(handed_over):
    write_json(handed_over.thresholds, {"weights_sha256": "0" * 64, KEY: None})
    with pytest.raises(WorkspaceError, match="about other weights.*Run stage validate again"):
        export.run(Params(), handed_over.root)


def test_stage_export_before_stage_validate_writes_those_of_the_weights(handed_over, trained):
    export.run(Params.build({"export": {"check_images": 1}}), handed_over.root)
    found = load_runtime(handed_over.export / "best.onnx", "cpu").operating_point
    assert found == load_runtime(trained[1].best, "cpu").operating_point is not None


def test_without_boxes_in_val_no_thresholds_are_chosen(trained, make_shapes, tmp_path):
    folder = make_shapes(tmp_path / "bare", {"train": 4, "val": 3, "test": 3})
    for label in (folder / "labels" / "val").iterdir():
        label.write_text("")
    data = DataConfig(policies={"split_without_boxes": "warn"})
    prepare(load_description(folder), tmp_path / "prepared", data)
    validator = DetectionValidator(overrides={"goal": "recall>=0.9"})
    validator(model=trained[1].best, data=tmp_path / "prepared")
    found = settle_point(validator, trained[1].best, tmp_path / "prepared")
    assert found is None and report_point(validator, found, tmp_path) is None


def test_groups_of_images_are_those_of_the_data(trained, shapes):
    validator = DetectionValidator(overrides={"split": "test"})
    validator(model=trained[1].best, data=shapes)
    assert validator.image_groups() == [f"image {i}" for i in range(6)]
    records = validator.loader.dataset.records
    order = sorted(range(6), key=lambda i: (records[i].sha256, records[i].name))
    validator.loader.dataset.records = [
        replace(record, group="a" if i == order[2] else "") for i, record in enumerate(records)
    ]
    assert validator.image_groups()[2] == "group a"
    validator.loader.dataset.records = records[:3]  # of another data set
    assert validator.image_groups() is None


def test_a_validator_with_metrics_of_its_own_has_none(shapes, tmp_path):
    class Counts(DetectionValidator):
        metric_names = ("metrics/images",)

        def update_metrics(self, results, batch):
            pass

        def get_stats(self):
            return {"metrics/images": float(self.images)}

        def plot_metrics(self):
            pass

    class Trainer(DetectionTrainer):
        validator_class = Counts

    result = Trainer(
        overrides={
            "model": "yolov8n",
            "data": str(shapes),
            "epochs": 1,
            "imgsz": 32,
            "monitor": "metrics/images",
            "project": str(tmp_path),
            "plots": False,
            "verbose": False,
            "device": "cpu",
        }
    ).train()
    assert KEY not in load_checkpoint(result.best).meta


def test_select_keeps_the_classes_above_their_limits():
    scores = torch.tensor([[0.6, 0.3], [0.4, 0.2], [0.1, 0.9]])
    boxes = torch.arange(12.0).reshape(3, 4)
    mine = point([0.5, 0.25], [LINE, ScoreMap()])
    kept, calibrated = select(boxes, scores, mine, np.array([0.5, 0.25]))
    assert kept.tolist() == boxes[[0, 2]].tolist()
    expected = [[float(LINE(np.float64(0.6))), 0.3], [0.0, 0.9]]
    assert calibrated.numpy() == pytest.approx(np.array(expected), abs=1e-6)
