"""The core knows no boxes and no images: a process that trains a text classifier on it has imported
nothing of either. And the trainer holds its run as a few values.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from classifier import make
from text_classifier import TextTrainer, settings_of

from engine.core.results import read_results

HERE = Path(__file__).parent
# What a classifier of texts has no use for, by the beginning of a module's name.
FOREIGN = (
    *(f"engine.{room}" for room in ("boxes", "data", "datasets", "detect", "metrics", "models")),
    *("engine.plots", "engine.export", "cv2", "PIL", "torchvision", "matplotlib"),
    *("prefect", "mlflow", "dvc", "optuna"),
)
MOST_ATTRIBUTES = 15

SCRIPT = """
import json, sys
from text_classifier import TextTrainer, settings_of
result = TextTrainer(settings_of(sys.argv[1])).train()
print(json.dumps({"metrics": result.metrics, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What a process of its own that trained the text classifier says, and its run folder."""
    project = tmp_path_factory.mktemp("text")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(project)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), project / "train", done.stderr


def test_a_text_classifier_trains_without_anything_of_boxes_or_images(alone):
    said, _, _ = alone
    foreign = [m for m in said["modules"] if any(f"{m}.".startswith(f"{x}.") for x in FOREIGN)]
    assert not foreign
    assert "engine.core.trainer" in said["modules"] and said["metrics"]["metrics/accuracy"] == 1.0


def test_its_first_metric_decides_and_stands_in_the_line_of_an_epoch(alone):
    _, run, log = alone
    rows = read_results(run / "results.csv")
    best = json.loads((run / "weights" / "best.json").read_text())
    accuracies = [row["metrics/accuracy"] for row in rows]
    assert best["epoch"] == accuracies.index(max(accuracies)) + 1
    assert "mAP" not in log and "image" not in log


def test_a_run_of_texts_resumes_to_the_same_bits(alone, tmp_path):
    _, whole, _ = alone
    cut = TextTrainer(settings_of(tmp_path))
    cut.add_callback("on_train_batch_end", lambda t: 1 / 0 if t.epoch == 1 else None)
    with pytest.raises(ZeroDivisionError):
        cut.train()
    result = TextTrainer(settings_of(tmp_path, resume=True)).train()
    assert result.best.read_bytes() == (whole / "weights" / "best.pt").read_bytes()


def test_a_trainer_is_a_handful_of_values(tmp_path):
    trainer = make(tmp_path)
    before = set(vars(trainer))
    trainer.train()
    assert set(vars(trainer)) == before and len(before) <= MOST_ATTRIBUTES, sorted(before)


def test_a_detection_trainer_is_too(tmp_path):
    from engine.detect import DetectionTrainer

    trainer = DetectionTrainer({"project": str(tmp_path), "device": "cpu"})
    assert len(vars(trainer)) <= MOST_ATTRIBUTES, sorted(vars(trainer))


def test_what_callbacks_read_and_write_is_the_state_and_the_components(tmp_path):
    trainer = make(tmp_path, epochs=2)
    assert trainer.model is None and trainer.epoch == 0 and trainer.rows == []
    trainer.train()
    assert trainer.rows is trainer.state.rows and trainer.model is trainer.components.model
    trainer.stop = True
    assert trainer.state.stop is True and "stop" not in vars(trainer)
