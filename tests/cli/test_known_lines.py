"""Command lines as other trainers have them are answered with the line that means the same here."""

import shlex

import pytest

from engine.cli import MODES, main
from engine.cli.known_lines import KEY_VALUE, KNOWN_MODES


@pytest.mark.parametrize(
    "line, ours",
    [
        ("detect train data=a.yaml epochs=3", "train data=a.yaml epochs=3"),
        ("yolo detect train data=a.yaml", "train data=a.yaml"),
        ("yolo train data=a.yaml", "train data=a.yaml"),
        ("yolo task=detect mode=train data=a.yaml", "train data=a.yaml"),
        ("mode=predict source=x.jpg task=detect", "predict source=x.jpg"),
        ("yolo predict 'source=a b.jpg'", "predict 'source=a b.jpg'"),
        ("train --data a.yaml --epochs 3 --cos-lr", "train data=a.yaml epochs=3 cos_lr=true"),
        ("val --data=a.yaml --imgsz 320", "val data=a.yaml imgsz=320"),
    ],
)
def test_a_line_of_another_trainer_is_answered_with_ours(line, ours, capsys):
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"is written otherwise here: detectflow {ours}\n"), said
    assert "Did you mean" not in said


@pytest.mark.parametrize(
    "line, said",
    [
        ("segment train data=a.yaml", "only detectors are trained here, no task segment"),
        ("yolo pose predict source=x", "no task pose"),
        ("detect", "a mode is missing after it"),
        ("checks", "make test"),
        ("settings", "params.yaml"),
        ("rect", "no mode 'rect'. Modes: "),
        ("benchmark", "benchmarks/loader.py"),
        ("trian data=x", "Did you mean 'train'?"),
    ],
)
def test_other_commands_are_named(line, said, capsys):
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_our_own_lines_are_left_alone(capsys):
    for line in ("train --help", "predict -h", "help train"):
        assert main(line.split()) == 0
    assert main(["train", "name=a--b", "epochs=0"]) == 2
    assert "epochs" in capsys.readouterr().err
    assert set(KEY_VALUE) <= set(MODES) and not set(KNOWN_MODES) & set(MODES)
