"""Every kind of network through the whole pipeline: real Prefect, DVC and MLflow in a copy of the
project, from labelled images to a served model.
"""

import base64
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from test_pipeline import STAGES, TINY
from workspaces import ROOT, copy_project, shell

pytestmark = pytest.mark.system

PAGE = ROOT / "docs" / "engine" / "custom-models.md"
SETTINGS = TINY
ANSWER = """
import json, sys, mlflow, pandas
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.pyfunc.load_model("models:/digits/1")
frame = pandas.DataFrame({"image": [sys.stdin.read()]})
print(json.dumps(list(model.predict(frame, params={"conf": 0.001})["detections"])))
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = copy_project(tmp_path_factory.mktemp("networks") / "project").resolve()
    for name, text in re.findall(r"```python\n# (mine/\w+\.py)\n(.*?)```", PAGE.read_text(), re.S):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    assert shell(root, "git", "init", "-q").returncode == 0
    for words in (["add", "-A"], ["commit", "-qm", "state"]):
        assert shell(root, "git", *words).returncode == 0
    return root


def detectflow(root: Path, *words: str):
    return shell(root, sys.executable, "-m", "engine", *words, PREFECT_SERVER_API_PORT="1")


def run(root: Path, **changes: str):
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    return detectflow(
        root, "run", *(w for key, value in settings.items() for w in ("-S", f"{key}={value}"))
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__trainer": "mine.net:CelTrainer"}, "Did you mean 'CellTrainer'"),
        ({"train__trainer": "mine.nets:CellTrainer"}, "there is no module 'mine.nets'"),
        ({"train__trainer": "mine.net:Cells"}, "not a class derived from a trainer"),
        ({"train__model": "torchvision:retinanet"}, "Did you mean 'torchvision:retinanet_"),
        ({"export__formats": "[safetensors]"}, "the registered model is the onnx file"),
        ({"train__imgsz": "80"}, "try 64 or 96"),
    ],
)
def test_a_wrong_name_is_reported_before_anything_is_written_or_run(workspace, changes, said):
    before = (workspace / "params.yaml").read_bytes()
    done = run(workspace, **changes)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert (workspace / "params.yaml").read_bytes() == before
    assert not (workspace / "reports").exists() and not (workspace / "data/prepared").exists()


@pytest.mark.parametrize(
    ("changes", "family", "losses"),
    [
        (
            {"train__trainer": "mine.net:CellTrainer"},
            "mine.net:CellTrainer",
            ("box_loss", "score_loss"),
        ),
        (
            {
                "train__trainer": "null",
                "train__model": "torchvision:ssdlite320_mobilenet_v3_large",
            },
            "torchvision",
            ("bbox_regression", "classification"),
        ),
        (
            {
                "train__trainer": "null",
                "train__model": "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
            },
            "torchvision",
            ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"),
        ),
    ],
    ids=["a trainer of one's own", "SSDlite", "Faster R-CNN"],
)
def test_all_five_stages_and_the_served_model(workspace, changes, family, losses):
    done = run(workspace, **changes)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    stages = {line[0]: line[1] for line in lines if line[0] in STAGES}
    assert {stages[name] for name in STAGES[1:]} == {"ran"}
    train = yaml.safe_load((workspace / "params.yaml").read_text())["train"]
    assert all(
        train[key.partition("__")[2]] == value for key, value in changes.items() if value != "null"
    )
    report = json.loads((workspace / "reports" / "registration.json").read_text())
    assert report["model"] == "digits"
    exported = json.loads((workspace / "reports" / "export.json").read_text())
    assert exported["files"]["onnx"]["images"] > 0

    plots = shell(workspace, "dvc", "plots", "show", "--json")
    drawn = {Path(name).stem for name in json.loads(plots.stdout)["data"] if "losses" in name}
    assert plots.returncode == 0 and drawn == set(losses)

    val = detectflow(workspace, "val", "model=weights/best.pt", "data=data/prepared", "plots=false")
    assert val.returncode == 0 and "metrics/mAP50-95" in val.stdout, val.stderr
    image = next((workspace / "data/prepared/images/test").iterdir())
    for model in ("weights/best.pt", "export/best.onnx"):
        found = detectflow(workspace, "predict", f"model={model}", f"source={image}", "save=false")
        assert found.returncode == 0 and "objects in 1 images" in found.stdout, found.stderr

    # The registered model answers without any code of this project or of the user's.
    (workspace / "answer.py").write_text(ANSWER.replace("/1", f"/{report['version']}"))
    import subprocess

    from workspaces import clean_environment

    served = subprocess.run(
        [sys.executable, "-I", "answer.py"],
        cwd=workspace,
        env=clean_environment(),
        input=base64.b64encode(image.read_bytes()).decode(),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert served.returncode == 0, served.stderr
    (found,) = json.loads(served.stdout.splitlines()[-1])
    assert all(set(one) == {"class", "name", "score", "xyxy"} for one in found)

    from engine.core.checkpoint import load_checkpoint

    assert load_checkpoint(workspace / "weights" / "best.pt").meta["family"] == family
