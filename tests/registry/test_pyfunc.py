"""The registered model answers as the engine does, and needs nothing of this project."""

import base64
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
import toys

from engine.detect.predictor import DetectionPredictor
from engine.metrics.operating_point import OperatingPoint
from engine.registry.candidate import Candidate, Measured
from engine.registry.registry import save_pyfunc


def save(home, batch, **other):
    """(ONNX file, MLflow model folder) of the hand-made detector."""
    file = toys.write_detector(home / "best.onnx", batch=batch, **other)
    example = cv2.imencode(".png", toys.image(0))[1].tobytes()
    measured = Measured("metrics/mAP50-95", 0.5, "test", "d")
    save_pyfunc(Candidate("detector", file, "", measured, {}, example=example), home / "saved")
    return file, home / "saved"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"), "batch")


@pytest.fixture(scope="module", params=[1, 4], ids=lambda batch: f"batch={batch}")
def saved_fixed(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"), request.param)


def encoded(image, suffix=".png"):
    return base64.b64encode(cv2.imencode(suffix, image)[1].tobytes()).decode()


def predict(folder, texts, **params):
    import mlflow
    import pandas

    model = mlflow.pyfunc.load_model(str(folder))
    answer = model.predict(pandas.DataFrame({"image": texts}), params=params or None)
    return list(answer["detections"])


SHAPES = [(64, 64), (50, 90), (333, 200), (31, 17), (129, 128)]


@pytest.mark.parametrize(
    "settings",
    [
        {"conf": 0.25, "iou": 0.7},
        {"conf": 0.05, "iou": 0.3},
        {"conf": 0.05, "iou": 0.7, "classes": [1]},
        {"conf": 0.05, "iou": 0.7, "classes": [0, 1], "max_det": 3},
    ],
    ids=str,
)
def test_it_agrees_with_the_predictor(saved, settings):
    assert_agrees(*saved, settings)


def test_a_file_for_a_fixed_number_of_images_takes_any_number(saved_fixed):
    assert_agrees(*saved_fixed, {"conf": 0.25, "iou": 0.7})


def assert_agrees(weights, folder, settings, tolerance_px=0.02):
    images = [toys.image(i, shape) for i, shape in enumerate(SHAPES)]
    predictor = DetectionPredictor(
        {"model": str(weights), "device": "cpu", "save": False, "verbose": False, **settings}
    )
    expected = predictor(images)
    found = predict(folder, [encoded(image) for image in images], **settings)
    assert any(len(each) > 1 for each in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [each["class"] for each in ours] == theirs.classes.tolist()
        assert [each["name"] for each in ours] == theirs.labels
        np.testing.assert_allclose([each["score"] for each in ours], theirs.scores, atol=2e-5)
        np.testing.assert_allclose(
            np.array([each["xyxy"] for each in ours]).reshape(-1, 4),
            theirs.boxes,
            atol=tolerance_px,
        )


def test_a_real_detector_exported_by_this_project_answers_as_its_checkpoint(
    random_weights, exported, tmp_path
):
    measured = Measured("metrics/mAP50-95", 0.5, "test", "d")
    candidate = Candidate("detector", exported["onnx"].path, "", measured, {})
    save_pyfunc(candidate, tmp_path / "saved")
    settings = {"conf": 0.5, "iou": 0.6}
    assert_agrees(random_weights, tmp_path / "saved", settings, tolerance_px=0.05)


IDENTITY = {"x": [0.0], "y": [0.0], "slope": 1.0}
BENT = {"x": [-1.0, 0.5], "y": [-2.0, 1.0], "slope": 1.0}
POINT = {
    "goal": "precision>=0.9",
    "chosen_on": "val",
    "overall": 0.5,
    "thresholds": [0.12, 0.4],
    "own": [True, True],
    "reached": [True, True],
    "calibration": {"method": "isotonic", "maps": [IDENTITY, BENT], "own": [True, True]},
}


@pytest.fixture(scope="module")
def saved_with_point(tmp_path_factory):
    home = tmp_path_factory.mktemp("model")
    file = toys.write_detector(home / "best.onnx", point=POINT)
    candidate = Candidate(
        "detector",
        file,
        "",
        Measured("metrics/mAP50-95", 0.5, "test", "d"),
        {},
        names=toys.NAMES,
        operating_point=OperatingPoint.from_dict(POINT, 2),
    )
    save_pyfunc(candidate, home / "saved")
    return file, home / "saved"


@pytest.mark.parametrize("settings", [{}, {"conf": 0.3}, {"iou": 0.3}], ids=str)
def test_without_conf_each_class_has_its_threshold_and_scores_are_calibrated(
    saved_with_point, settings
):
    assert_agrees(*saved_with_point, settings)


def test_thresholds_and_calibration_worked_by_hand(saved_with_point):
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:24, 40:48] = 153  # bright .6, logit .405, on the line from (-1, -2) to (.5, 1)
    logit = np.log(0.6 / 0.4)
    score = 1 / (1 + np.exp(-(-2 + 2 * (logit + 1))))  # .69
    found = predict(saved_with_point[1], [encoded(image)])[0]
    assert [(each["name"], each["score"]) for each in found] == [
        ("bright", pytest.approx(score, abs=1e-4))
    ]
    assert predict(saved_with_point[1], [encoded(image)], conf=score + 0.01) == [[]]
    assert len(predict(saved_with_point[1], [encoded(image)], conf=score - 0.01)[0]) == 1
    image[16:24, 40:48] = 112  # bright .44 becomes .38, below .4; dark .146 stays, above .12
    found = predict(saved_with_point[1], [encoded(image)])[0]
    assert [each["name"] for each in found] == ["dark"]


def test_nms_runs_only_where_the_file_needs_it(tmp_path):
    """Boxes of 16 px on cells of 8: IoU 1/3 beside each other, 1/7 at a corner. NMS above .3 leaves a
    chequerboard.
    """
    image = np.full((64, 64, 3), 255, np.uint8)
    counts = {}
    for needs_nms in (True, False):
        _, folder = save(tmp_path / str(needs_nms), "batch", needs_nms=needs_nms)
        found = predict(folder, [encoded(image)], conf=0.5, iou=0.3)[0]
        counts[needs_nms] = len(found)
        assert len(predict(folder, [encoded(image)], conf=0.5, iou=0.3, max_det=5)[0]) == 5
    assert counts == {True: 32, False: 64}


def test_a_file_of_an_older_version_is_refused(tmp_path):
    model = onnx.load(toys.write_detector(tmp_path / "best.onnx"))
    boxes, _ = model.graph.output
    made_by = next(node for node in model.graph.node if boxes.name in node.output)
    del model.graph.output[1]
    made_by.output[0] = boxes.name = "output"
    onnx.save(model, tmp_path / "old.onnx")
    measured = Measured("metrics/mAP50-95", 0.5, "test", "d")
    save_pyfunc(Candidate("detector", tmp_path / "old.onnx", "", measured, {}), tmp_path / "saved")
    with pytest.raises(Exception, match="exported by an older version.*register it again"):
        predict(tmp_path / "saved", [encoded(toys.image(1))])


def test_the_answer_is_right(saved):
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:24, 40:48] = 255  # one cell, whose box is 16 px around it
    assert predict(saved[1], [encoded(image)], conf=0.5) == [
        [{"class": 1, "name": "bright", "score": 1.0, "xyxy": [36.0, 12.0, 52.0, 28.0]}]
    ]
    assert predict(saved[1], [encoded(image // 4)], conf=0.5) == [[]]


def test_data_urls_are_understood_and_what_is_no_image_is_named_by_its_row(saved):
    url = "data:image/png;base64," + encoded(toys.image(3))
    assert predict(saved[1], [url]) == predict(saved[1], [encoded(toys.image(3))])
    for wrong in ("bm8gaW1hZ2U=", "", "%%%"):
        with pytest.raises(ValueError, match="^row 1: 'image' must be the base64 text"):
            predict(saved[1], [url, wrong])


@pytest.fixture(scope="module")
def ask(saved):
    """(status, sentence or answer) of MLflow's own server for `params` of a call."""
    import mlflow
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    client = TestClient(init(mlflow.pyfunc.load_model(str(saved[1]))))

    def ask(params):
        table = {"columns": ["image"], "data": [[encoded(toys.image(0))]]}
        body = json.dumps({"dataframe_split": table, "params": params})  # NaN as Python writes it
        answer = client.post("/invocations", content=body, headers={"Content-Type": JSON})
        return answer.status_code, answer.json().get("message", answer.json())

    return ask


JSON = "application/json"
FROM_0_TO_1 = "must be a number from 0 to 1, got"
NOT_A_NUMBER = [7, -1, 1.0001, float("nan"), float("inf")]


@pytest.mark.parametrize(
    "params, said",
    [
        *(({"conf": wrong}, f"params: conf {FROM_0_TO_1} {wrong:g}") for wrong in NOT_A_NUMBER),
        *(({"iou": wrong}, f"params: iou {FROM_0_TO_1} {wrong:g}") for wrong in NOT_A_NUMBER),
        *(
            ({"max_det": wrong}, f"max_det must be a whole number, 1 or more.*got {wrong}$")
            for wrong in (0, -3)
        ),
        ({"classes": [0, 7]}, r"params: classes must be among 0: dark, 1: bright; got 7"),
        ({"classes": [-1]}, r"params: classes must be among 0: dark, 1: bright; got -1"),
        ({"imgsz": 96}, "imgsz must be left out: the file takes 64 x 64.*got 96; export it again"),
        ({"imgsz": -64}, "imgsz must be left out"),
        # what MLflow refuses itself, by the signature
        *(({name: "x"}, f"{name}") for name in ("conf", "iou", "max_det", "classes", "imgsz")),
        ({"max_det": 1.5}, "max_det"),
        ({"classes": 0}, "classes"),
    ],
    ids=str,
)
def test_a_parameter_out_of_its_range_is_a_sentence_and_400(ask, params, said):
    status, sentence = ask(params)
    assert status == 400 and re.search(said, sentence), sentence


@pytest.mark.parametrize(
    "params", [{}, {"conf": 0}, {"conf": None}, {"iou": 1}, {"classes": []}, {"imgsz": 64}], ids=str
)
def test_what_is_in_range_is_answered(ask, params):
    status, answer = ask(params)
    assert status == 200 and answer["predictions"][0]["detections"]
    assert ask({"conf": 1}) == (200, {"predictions": [{"detections": []}]})


def test_it_loads_where_this_project_is_not_installed(saved, tmp_path):
    code = f"""
import sys
sys.modules["engine"] = sys.modules["torch"] = None  # importing them fails
import mlflow, pandas
model = mlflow.pyfunc.load_model({str(saved[1])!r})
found = model.predict(pandas.DataFrame({{"image": [{encoded(toys.image(5))!r}]}}))["detections"][0]
import json
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == predict(saved[1], [encoded(toys.image(5))])[0]
    assert "warn" not in done.stderr.lower()


def test_the_folder_says_what_goes_in_and_out_and_what_it_needs(saved):
    from mlflow.models import Model

    model = Model.load(str(saved[1]))
    assert model.signature.inputs.input_names() == [
        "image"
    ] and model.signature.outputs.input_names() == ["detections"]
    assert {p.name for p in model.signature.params.params} == {
        *("conf", "iou", "max_det", "classes", "imgsz")
    }
    assert model.saved_input_example_info is not None
    requirements = (saved[1] / "requirements.txt").read_text()
    assert all(
        f"{name}==" in requirements
        for name in ("mlflow", "onnxruntime", "numpy", "opencv-python-headless")
    )
    assert "torch" not in requirements
    assert not list(saved[1].rglob("*.pkl"))
