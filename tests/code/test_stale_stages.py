"""The table of the issue: an edit of the sources, and the stages that it makes stale. Stages behind
them follow through DVC, where what they read has changed.
"""

import pytest
from edits import (
    Copy,
    added,
    annotated,
    call,
    comment,
    docstring,
    messages,
    number,
    reformatted,
    replaced,
    without,
)

DETECTOR = {"train", "validate"}
WITH_WEIGHTS = {*DETECTOR, "export"}
MEASURED = {*DETECTOR, "register"}  # measures the exported files
ALL_BUT_PREPARE = {*WITH_WEIGHTS, "register"}
NOTHING = set()

# what is edited, the file below engine/, the edit, and the stages that run again
# fmt: off
TABLE = [
    ("a comment in the loss", "models/yolov8/loss.py", comment, NOTHING),
    ("a comment in a page", "datasets/reports/html_page.py", comment, NOTHING),
    ("a docstring of the trainer", "core/trainer.py", docstring, NOTHING),
    ("formatting of the transforms", "data/transforms.py", reformatted, NOTHING),
    ("formatting of the detection trainer", "detect/trainer.py", reformatted, NOTHING),
    ("annotations of the loss", "models/yolov8/loss.py", annotated, NOTHING),
    ("messages of the trainer", "core/trainer.py", messages, NOTHING),
    ("messages of the checkpoint", "core/checkpoint.py", messages, NOTHING),
    ("messages of a reader", "datasets/formats/coco.py", messages, NOTHING),
    ("messages of the exporter", "export/exporter.py", messages, NOTHING),
    ("texts of all errors", "errors.py", added("class AnotherError(EngineError): ..."), NOTHING),
    ("a colour of the plots", "plots/style.py", number(), NOTHING),
    ("how curves are drawn", "plots/curves.py", number(), NOTHING),
    ("a page of HTML", "datasets/reports/html_page.py", call("heading"), NOTHING),
    ("the report of a check", "datasets/reports/check_report.py", number(), NOTHING),
    ("progress of an epoch", "core/progress.py", number(), NOTHING),
    ("drawn batches", "detect/batch_plots.py", number(), NOTHING),
    ("text of the command line", "cli/help.py", number(), NOTHING),
    ("the journal of MLflow", "tracking/journal.py", number(), NOTHING),
    ("what DVC is asked", "versioning/dvc_repo.py", number(), NOTHING),
    ("the frame of a stage", "stages/runner.py", call("run_stage"), NOTHING),
    ("locks of the workspace", "project/workspace_lock.py", number(), NOTHING),
    ("the trace of a model", "lineage/graph.py", number(), NOTHING),
    ("search for settings", "hpo/study.py", number(), NOTHING),
    ("prediction on videos", "detect/sources.py", number(), NOTHING),
    ("texts of kinds of findings", "datasets/findings.py", replaced("the image is left", "it is left"), NOTHING),
    ("the title of a format", "datasets/formats/voc.py", replaced("Pascal VOC", "PASCAL"), NOTHING),
    ("what a format is for", "model_formats/onnx.py", replaced("needs no PyTorch", "small"), NOTHING),
    ("why training stops, in words", "core/early_stopping.py", replaced("improved for", "risen in"), NOTHING),
    ("a helper of two modules' errors", "models/family.py", number("kind_of"), NOTHING),
    ("words put together for an error", "models/family.py", replaced("largest stride", "stride"), NOTHING),
    ("the lock of a run's folder", "core/run_lock.py", call("take"), NOTHING),
    ("an annotation of a class", "core/task.py", replaced("args: TrainConfig", "args: object"), NOTHING),
    ("another name that a package hands on", "metrics/__init__.py", added("from engine.metrics.curves import f"), NOTHING),
    ("a family that is not used", "models/torchvision/networks.py", call("build"), NOTHING),
    ("what is true at an event", "core/events.py", replaced("configuration final", "it is final"), NOTHING),
    ("what a message calls the samples", "detect/trainer.py", replaced('sample_word = "images"', 'sample_word = "frames"'), NOTHING),
    ("what a message advises", "detect/trainer.py", replaced('"imgsz or model"', '"model or imgsz"'), NOTHING),
    ("what takes the place of an old name", "core/validator.py", replaced('OldName("`declared', 'OldName("now `declared'), NOTHING),
    ("which of its batches are drawn", "detect/trainer.py", call("plot_training_samples"), NOTHING),
    ("what is drawn after a training", "detect/trainer.py", call("plot_metrics"), NOTHING),
    ("progress that is rounded", "stages/progress.py", number("epoch_progress"), NOTHING),
    ("progress of an export", "stages/progress.py", call("step_progress"), NOTHING),
    ("the description of a model", "registry/version_description.py", replaced("Object detectors made", "Detectors made"), NOTHING),
    ("a tag of a run", "tracking/run_metadata.py", replaced('"mlflow.source.name": "detectflow"', '"mlflow.source.name": "x"'), NOTHING),
    ("help of a setting", "config/train.py", replaced("only deterministic", "just"), NOTHING),
    ("decoding of images", "data/images.py", number(), {"prepare", *ALL_BUT_PREPARE}),
    ("tables that the validator writes", "detect/validator.py", call("plot_metrics"), MEASURED),
    ("events of a validation", "core/events.py", replaced('startswith("on_val_")', 'startswith("on_")'), ALL_BUT_PREPARE),
    ("what published weights say", "model_formats/metadata.py", call("decode_meta"), {"train", "export"}),
    ("the loss", "models/yolov8/loss.py", number(), {"train"}),
    ("assignment of targets", "models/yolov8/assign.py", number(), {"train"}),
    ("settings that the loss is given", "models/yolov8/family.py", call("criterion"), {"train"}),
    ("transfer to other classes", "models/transfer.py", call("transfer"), {"train"}),
    ("when training stops early", "core/early_stopping.py", number("should_stop"), {"train"}),
    ("the network", "models/yolov8/network.py", number(), ALL_BUT_PREPARE),
    ("decoding", "models/yolov8/decode.py", number(), WITH_WEIGHTS),
    ("the optimizer", "core/optim.py", number(), {"train"}),
    ("the schedule", "core/schedule.py", number(), {"train"}),
    ("the average of the weights", "core/ema.py", number(), {"train"}),
    ("the training loop", "core/trainer.py", call("train"), {"train"}),
    ("augmentation", "data/transforms.py", number("hsv"), ALL_BUT_PREPARE),
    ("batches", "data/loader.py", number(), MEASURED),
    ("metrics", "metrics/curves.py", number(), MEASURED),
    ("the validator", "detect/validator.py", number(), MEASURED),
    ("loading a checkpoint", "core/checkpoint.py", call("load_checkpoint"), ALL_BUT_PREPARE),
    ("splits", "datasets/splits.py", number(), {"prepare"}),
    ("a reader", "datasets/formats/voc.py", number(), {"prepare"}),
    ("near duplicates", "datasets/near_duplicates.py", number(), {"prepare"}),
    ("the ONNX file", "model_formats/onnx.py", call("write_onnx"), {"export"}),
    (
        "published weights",
        "model_formats/safetensors.py",
        call("read_safetensors"),
        {"train", "export"},
    ),
    ("the network as it is exported", "models/yolov8/family.py", call("export_module"), {"export"}),
    ("layers that are fused for export", "models/yolov8/fuse.py", call("fuse"), {"export"}),
    ("how a dataset is converted", "datasets/formats/writers.py", number(), NOTHING),
    ("how weights are published", "model_formats/safetensors.py", call("write_safetensors"), {"export"}),
    ("the input of an exported file", "detect/runtime.py", call("input_size"), {"export", "register"}),
    ("a text that becomes a result", "datasets/findings.py", replaced('"unreadable_image"', '"unread_image"'), {"prepare"}),
    ("whether a policy is offered", "datasets/findings.py", replaced('= "the image is left out"', '= ""'), {"prepare"}),
    ("the fields of a tuple", "models/yolov8/assign.py", replaced("foreground: Tensor", "foreground: list"), {"train"}),
    (
        "names that a package hands on, swapped",
        "metrics/__init__.py",
        replaced(
            "DetectionMetrics, DetectionScores,",
            "DetectionMetrics as DetectionScores, DetectionScores as DetectionMetrics,",
        ),
        MEASURED,
    ),
    (
        "a statement in a package",
        "data/__init__.py",
        added("import cv2\ncv2.setNumThreads(1)"),
        {"prepare", *ALL_BUT_PREPARE},
    ),
    (
        "the package of the configuration hands on another",
        "config/__init__.py",
        replaced("import DetectionTrainConfig, TrainConfig", "import TrainConfig as DetectionTrainConfig"),
        {"train"},
    ),
    ("a new format", "model_formats/table.py", added("FORMATS['x'] = ONNX"), {"export"}),
    ("parity with PyTorch", "export/parity.py", number(), {"export"}),
    (
        "how metrics are rounded in reports",
        "stages/layout.py",
        replaced("round(float(value), 6)", "round(float(value), 2)"),
        {"prepare", "train", "validate", "export", "register"},
    ),
    (
        "what the gate takes from the records",
        "tracking/run_metadata.py",
        number(),
        {"register"},
    ),
    ("a gate", "gates/better.py", number(), {"register"}),
    ("the evidence of a decision", "comparison/evidence.py", number(), {"register"}),
    ("the paired bootstrap", "metrics/paired.py", number(), {"validate", "register"}),
    ("what a person decides", "registry/moves.py", number(), NOTHING),
    ("tables of a comparison", "comparison/text.py", number(), NOTHING),
    ("the served model", "registry/pyfunc_model.py", number(), {"register"}),
    ("the served weights", "registry/pyfunc_weights.py", call("run"), {"register"}),
    (
        "a function of the loss is gone",
        "models/yolov8/loss.py",
        without("focal_distances"),
        {"train"},
    ),
    ("a new function of the loss", "models/yolov8/loss.py", added("def f(): ..."), {"train"}),
    ("the sections' arithmetic", "config/train.py", number("mosaic_until_epoch"), {"train"}),
]


# fmt: on


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Copy(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("what, file, edit, stages", TABLE, ids=[row[0] for row in TABLE])
def test_an_edit_makes_exactly_these_stages_stale(copy, what, file, edit, stages):
    assert copy.stale((file, edit)) == stages


def test_the_whole_engine_reformatted_with_other_docstrings_makes_nothing_stale(copy):
    files = [p.relative_to(copy.folder / "engine").as_posix() for p in copy.folder.rglob("*.py")]
    edits = [(f, lambda text: comment(docstring(reformatted(text)))) for f in sorted(files)]
    assert copy.stale(*edits) == NOTHING


def test_edits_that_are_taken_back_leave_no_trace(copy):
    assert copy.stale(("core/optim.py", number()), ("datasets/splits.py", number())) == {
        "train",
        "prepare",
    }
    assert copy.records() == copy.clean
