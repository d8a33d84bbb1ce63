"""`detectflow val`, `predict` and `export` as a person types them: what is printed, written and
returned.
"""

import io
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest
from detectors import save_detector

from engine import YOLO
from engine.cli import main
from engine.cli.modes import _own
from engine.errors import ConfigError
from engine.export.parity_images import generated_image


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture
def here(weights, tmp_path, monkeypatch):
    """A working directory with weights and a folder of four images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    (tmp_path / "best.pt").write_bytes(weights.read_bytes())
    (tmp_path / "images").mkdir()
    for i in range(4):
        cv2.imwrite(f"images/{i}.png", generated_image(i, (64, 64)))
    return tmp_path


def test_predict_says_what_it_found_and_each_run_has_its_folder(here, capsys, caplog):
    with caplog.at_level("INFO"):
        assert (
            main(["predict", "model=best.pt", "source=images", "save_json=true", "device=cpu"]) == 0
        )
    said = capsys.readouterr().out
    assert "objects in 4 images, images and detections.jsonl in runs/predict/" in said
    assert [message.split()[0] for message in caplog.messages if "/4 " in message] == [
        "1/4",
        "2/4",
        "3/4",
        "4/4",
    ]
    rows = [
        json.loads(line)
        for line in (here / "runs/predict/detections.jsonl").read_text().splitlines()
    ]
    assert sum(len(row["detections"]) for row in rows) == int(said.split()[0]) > 0
    assert (
        main(["predict", "model=best.pt", "source=images/0.png", "verbose=false", "device=cpu"])
        == 0
    )
    assert [p.name for p in (here / "runs/predict2").iterdir()] == ["0.png"]
    assert len(list((here / "runs/predict").iterdir())) == 5


def test_a_broken_image_is_named_counted_and_reported_by_the_exit_code(here, capsys, caplog):
    (here / "images" / "1.png").write_bytes(b"not a picture")
    with caplog.at_level("WARNING"):
        assert (
            main(
                [
                    "predict",
                    "model=best.pt",
                    "source=images",
                    "save=false",
                    "verbose=false",
                    "device=cpu",
                ]
            )
            == 1
        )
    said = capsys.readouterr().out
    assert "in 3 images, 1 could not be read" in said and "runs/" not in said
    assert "skipped images/1.png: not a readable image (cannot identify image file)" in caplog.text
    assert not (here / "runs").exists()


def test_val_prints_every_figure_the_counts_and_the_speed(here, shapes, capsys):
    assert main(["val", "model=best.pt", f"data={shapes}", "batch=4", "device=cpu"]) == 0
    said = capsys.readouterr().out
    lines = dict(line.split() for line in said.splitlines() if line.startswith("  metrics/"))
    assert (
        "test: 6 images, 18 objects" in said
        and "ms per image: preprocess " in said
        and "in runs/val/" not in said
    )
    assert {
        "metrics/mAP50-95",
        "metrics/AR100",
        "metrics/mAP-small",
        "metrics/F1",
        "metrics/confidence",
    } <= set(lines)
    assert lines["metrics/mAP-large"] == "-" and 0 <= float(lines["metrics/mAP50"]) <= 1
    assert (here / "runs/val/matches.npz").is_file() and (here / "runs/val/per_image.csv").is_file()


def test_export_says_how_close_the_file_is(here, capsys):
    assert main(["export", "model=best.pt", "format=safetensors", "check_images=2"]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("best.safetensors   origin generated images  images 2  max_box_px ")
        and "flips 0" in said
    )


@pytest.fixture
def pipeline(here):
    """The working directory as a project, with weights that its pipeline made."""
    (here / "dvc.yaml").write_text(
        "stages: {train: {cmd: x, outs: [weights]}, export: {cmd: x, outs: [export]}}\n"
    )
    (here / "params.yaml").write_text("")
    (here / "weights").mkdir()
    (here / "best.pt").rename(here / "weights/best.pt")
    return here


def test_what_a_stage_made_stays_as_it_is_when_its_weights_are_exported(pipeline, capsys):
    words = ["export", "format=safetensors", "check_images=1"]
    assert main(words) == 0 and capsys.readouterr().out.startswith("runs/export/best.safetensors ")
    assert (
        YOLO("weights/best.pt").export("safetensors", check_images=1)
        == pipeline / "runs/export/best.safetensors"
    )
    for folder in ("weights", "export/mine"):
        assert main([*words, f"folder={folder}"]) == 2
        assert (
            f"folder={folder} lies in {folder.split('/')[0]}, which stage"
            in capsys.readouterr().err
        )
    assert main([*words, "folder=mine"]) == 0 and (pipeline / "mine/best.safetensors").is_file()
    assert [file.name for file in (pipeline / "weights").iterdir()] == ["best.pt"] and not (
        pipeline / "export"
    ).exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["predict", "source=images/none.jpg"], 1, "Source not found: images/none.jpg"),
        (
            ["predict", "source=images", "imgsz=100"],
            2,
            "imgsz must be a multiple of 32 (the largest stride) for this network: got 100",
        ),
        (
            ["predict", "source=images", "classes=[disk]"],
            2,
            "no class 'disk'. Did you mean 'disc'?",
        ),
        (["predict", "source=images", "model=images/0.png"], 1, "cannot run a '.png' file"),
        (["export", "format=onnx", "model=yolov8n"], 1, "yolov8n: is no weight file. A network by"),
        (
            ["val", "data=images", "model=yolov8n"],
            1,
            "give model=weights/best.pt, which a training",
        ),
        (["predict", "source=images", "model=yolov8n"], 1, "yolov8n: is no weight file"),
        (
            ["predict", "source=images", "model=torchvision:ssdlite320_mobilenet_v3_large"],
            1,
            "is no weight file",
        ),
        (["val", "data=nowhere.yaml"], 1, "nowhere.yaml: no such description or folder"),
        (
            ["val", "data=images", "split=testing"],
            2,
            "split: Input should be 'train', 'val' or 'test'",
        ),
        (["val", "data=images", "model=gone.onnx"], 1, "gone.onnx: no such file"),
        (
            ["predict", "source=images", "project=best.pt"],
            1,
            "best.pt/predict: this folder cannot be made (Not a directory)",
        ),
        (
            ["predict", "source=images", "save=false", "save_json=true", "project=/proc"],
            1,
            "/proc/predict: this folder",
        ),
        (["val", "data=[1]"], 1, "[1]: no such description or folder"),
        (["export", "format=tflite"], 2, "no export format 'tflite'"),
        (["export", "format=onnx", "model=gone/best.pt"], 1, "gone/best.pt: no such checkpoint"),
        (["export", "format=onnx", "folder=best.pt"], 1, "best.pt: cannot be written"),
    ],
)
def test_wrong_words_get_one_message_and_leave_nothing(here, capsys, words, code, message):
    given = words if any(word.startswith("model=") for word in words) else [*words, "model=best.pt"]
    assert main(given) == code
    said = capsys.readouterr()
    assert message in said.err and len(said.err.strip().splitlines()) == 1 and not said.out
    assert sorted(p.name for p in here.iterdir() if not p.name.startswith(".")) == [
        "best.pt",
        "images",
    ]


def test_commands_at_once_have_a_folder_each_and_leave_none_empty(tmp_path):
    together = threading.Barrier(8)

    def claim(number):
        together.wait()
        with _own(tmp_path / "a/b/val") as folder:
            together.wait()
            if number:
                (folder / "notes").touch()
        return folder.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(claim, range(8)))
    assert sorted(names) == ["val", *(f"val{n}" for n in range(2, 9))]
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == sorted(
        set(names) - {names[0]}
    )
    with pytest.raises(ConfigError), _own(tmp_path / "c/d/val"):
        raise ConfigError("wrong")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("project", ["best.pt", "/proc"])
def test_val_says_before_it_measures_that_it_cannot_write(here, shapes, capsys, project):
    assert main(["val", "model=best.pt", f"data={shapes}", f"project={project}", "device=cpu"]) == 1
    said = capsys.readouterr()
    assert f"WorkspaceError: {project}/val: this folder cannot be made" in said.err and not said.out


def test_a_file_name_that_is_not_utf8_goes_into_the_json(here):
    os.rename(b"images/0.png", b"images/caf\xe9.png")
    words = ["predict", "model=best.pt", "source=images", "save_json=true", "device=cpu"]
    assert main([*words, "verbose=false"]) == 0  # pytest-xdist cannot carry a line with such a name
    rows = [
        json.loads(line)
        for line in (here / "runs/predict/detections.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert [row["source"] for row in rows] == [
        "images/1.png",
        "images/2.png",
        "images/3.png",
        "images/caf\ufffd.png",
    ]


@pytest.mark.parametrize("where", ["terminal", "file"])
def test_a_bar_counts_images_on_a_terminal_only(here, shapes, monkeypatch, where):
    for words, total in (
        (
            ["predict", "model=best.pt", "source=images", "save=false", "verbose=false", "batch=2"],
            "/4 [",
        ),
        (["val", "model=best.pt", f"data={shapes}", "plots=false"], "/6 ["),
    ):
        monkeypatch.setattr(sys, "stderr", Terminal() if where == "terminal" else io.StringIO())
        assert main(words) == 0
        bar = sys.stderr.getvalue()
        assert (total in bar and words[0] in bar) if where == "terminal" else bar == ""


def test_in_python_a_predictor_says_who_takes_the_names_of_registered_models():
    from engine.detect import DetectionPredictor
    from engine.errors import CheckpointError

    with pytest.raises(CheckpointError, match="`Detector` and the commands take its name"):
        DetectionPredictor({"model": "parts@champion"})(source=[])


def test_labels_and_crops_are_settings_of_the_command_too(here, capsys):
    words = ["model=best.pt", "source=images", "save=false", "save_txt=true", "save_crop=true"]
    assert main(["predict", *words, "device=cpu", "verbose=false"]) == 0
    assert "objects in 4 images, labels and crops in runs/predict/" in capsys.readouterr().out
    labels = sorted((here / "runs/predict/labels").iterdir())
    assert [file.name for file in labels] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    boxes = sum(len(file.read_text().splitlines()) for file in labels)
    assert boxes == len(list((here / "runs/predict/crops").rglob("*.jpg"))) > 0
