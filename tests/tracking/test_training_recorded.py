"""What a training records on a real MLflow server besides its metrics: classes, plots, the machine,
checkpoints, its code.
"""

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import environments
import pytest
import toys
from PIL import Image
from ruamel.yaml import YAML

from engine.config import TrackingConfig
from engine.core.checkpoint import load_checkpoint
from engine.project.environment import prepare_environment
from engine.stages.runner import run_stage
from engine.tracking.checkpoint_uploads import Checkpoints
from engine.tracking.class_metrics import ClassMetrics, class_metrics, legal_labels
from engine.tracking.epoch_images import epochs_drawn
from engine.tracking.journal import Journal, journal_home, left_behind
from engine.tracking.mlflow_client import open_store
from engine.tracking.sender import send_left_behind
from engine.tracking.system_metrics import MachineWatch

pytestmark = pytest.mark.system

EPOCHS = 4


def set_params(root, **sections):
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    for section, changes in sections.items():
        values.setdefault(section, {}).update(changes)
    yaml.dump(values, root / "params.yaml")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, server):
    """A real detector trained, validated: (workspace, store, its run)."""
    before = environments.now()
    root = tmp_path_factory.mktemp("recorded") / "project"
    (root / "data").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    author = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run(
        ["git", "-C", str(root), *author, "commit", "-q", "--allow-empty", "-m", "first"],
        check=True,
    )
    for name in ("dvc.yaml", "params.yaml", "data/digits.yaml"):
        shutil.copy(toys.ROOT / name, root / name)
    set_params(
        root,
        data={"options": {"train": 24, "val": 12, "test": 6, "size": 96}},
        train={"imgsz": 96, "epochs": EPOCHS, "batch": 12, "device": "cpu", "verbose": False},
        tracking={
            "classes": 3,
            "images": 3,
            "machine_every_s": 0.2,
            "checkpoints": "all",
            "checkpoint_every_epochs": 2,
            "code": "diff",
        },
    )
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    try:
        prepare_environment(root)
        for stage in ("prepare", "train", "validate"):
            run_stage(stage, root)
        assert send_left_behind(root) == 0
        store = open_store(root, server.uri)
        (run,) = store.client.search_runs(
            [store.client.get_experiment_by_name("detectflow").experiment_id]
        )
        yield root, store, run
    finally:
        environments.restore(before)


def files(store, run, folder):
    return {
        Path(each.path).name: each for each in store.client.list_artifacts(run.info.run_id, folder)
    }


def download(store, run, path, to):
    return Path(store.client.download_artifacts(run.info.run_id, path, str(to)))


def test_single_classes_have_a_metric_in_every_epoch_and_on_the_deciding_split(recorded):
    _, store, run = recorded
    for split, count in (("val", EPOCHS), ("test", 1)):
        names = [name for name in run.data.metrics if name.startswith(f"{split} class AP50-95/")]
        assert 0 < len(names) <= 3, run.data.metrics
        assert len(store.client.get_metric_history(run.info.run_id, names[0])) == count
    rows = (recorded[0] / "reports" / "validate" / "per_class.csv").read_text().splitlines()
    column, name = rows[0].split(",").index("ap"), names[0].rpartition("/")[2]
    (row,) = [line.split(",") for line in rows[1:] if line.startswith(f"{name},")]
    assert run.data.metrics[names[0]] == pytest.approx(float(row[column] or 0), rel=1e-4)


def test_charts_begin_with_ap_then_losses_and_end_with_learning_rates(recorded):
    """MLflow orders charts by group and name."""
    _, _, run = recorded
    groups = sorted({name.rpartition("/")[0] for name in run.data.metrics if "system/" not in name})
    found = list(dict.fromkeys(group.split(" class")[0] for group in groups))
    curves = ["metrics", "test", "train", "val"]
    assert found[: len(curves)] == curves and found[-2:] == ["wall time", "warm-up and lr"]
    assert sorted(n for n in run.data.metrics if n.startswith("metrics/"))[0] == "metrics/mAP50"


def test_plots_of_epochs_are_named_as_the_ui_wants_them(recorded, tmp_path):
    _, store, run = recorded
    assert run.data.tags["mlflow.loggedImages"] == "True"
    found = files(store, run, "images")
    steps = {}
    for name in found:
        stem, suffix = name.rsplit(".", 1)
        key, step_word, step, time_word, at, *_ = stem.split("+")
        assert (step_word, time_word) == ("step", "timestamp") and at.isdigit()
        assert suffix == ("webp" if name.endswith("+compressed.webp") else "png")
        steps.setdefault(key.replace("~", "/"), set()).add(int(step))
    # from 1 as everywhere, and the first one at 0 again, where MLflow's slider stands
    assert steps["val pictures/predictions"] == {0, *(e + 1 for e in epochs_drawn(EPOCHS, 1, 3))}
    assert steps["val pictures/labels"] == {0, 1}
    for key in ("PR_curve", "F1_curve", "confusion_matrix"):
        assert steps[f"val pictures/{key}"] == steps["val pictures/predictions"]
    small = [
        name
        for name in found
        if name.startswith("val pictures~predictions") and "compressed" in name
    ]
    for name in (small[0], small[0].replace("+compressed.webp", ".png")):
        with Image.open(download(store, run, f"images/{name}", tmp_path)) as image:
            assert max(image.size) == (256 if "compressed" in name else 1600)


def test_the_machine_is_watched_under_the_names_of_mlflows_own_monitor(recorded):
    _, store, run = recorded
    system = {name: value for name, value in run.data.metrics.items() if name.startswith("system/")}
    assert {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/disk_usage_percentage",
        "system/network_receive_megabytes",
        "system/process_memory_megabytes",
    } <= set(system)
    assert (
        50
        < system["system/process_memory_megabytes"]
        < system["system/system_memory_usage_megabytes"]
    )
    history = store.client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    steps = [each.step for each in sorted(history, key=lambda m: m.timestamp)]
    assert len(steps) > 3 and steps == sorted(set(steps))
    assert any(each.value > 5 for each in history)  # a training was going on


def test_checkpoints_come_by_policy_and_can_be_used(recorded, tmp_path):
    root, store, run = recorded
    assert set(files(store, run, "checkpoints")) == {"best.pt", "epoch_0002.pt", "epoch_0004.pt"}
    best = download(store, run, "checkpoints/best.pt", tmp_path)
    assert best.read_bytes() == (root / "weights" / "best.pt").read_bytes()
    middle = load_checkpoint(download(store, run, "checkpoints/epoch_0002.pt", tmp_path))
    assert middle.training["epoch"] == 1 and middle.optimizer is not None


def test_every_split_is_an_input_with_a_digest_and_what_it_is_for(recorded):
    root, _, run = recorded
    inputs = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert set(inputs) == {"train", "val", "test"} and all(
        len(each.digest) == 16 for each in inputs.values()
    )
    assert '"images": 24' in inputs["train"].profile and "digits" in inputs["train"].source


def test_the_code_is_recorded_by_its_commit_and_what_differs_from_it(recorded, tmp_path):
    root, store, run = recorded
    tags = run.data.tags
    assert len(tags["mlflow.source.git.commit"]) == 40 and tags["mlflow.source.git.dirty"] == "True"
    text = download(store, run, "code/uncommitted.diff.txt", tmp_path).read_text()
    assert (
        tags["mlflow.source.git.commit"] in text.splitlines()[0]
        and "checkpoint_every_epochs: 2" in text
    )
    assert tags["git.uncommitted"].startswith("code/uncommitted.diff.txt, sha256:")
    assert tags["host"] and "torch" in tags["versions"] and "mlflow" in tags["versions"]


def test_no_section_of_a_training_costs_the_others_anything(recorded):
    root, _, run = recorded
    assert run.info.status == "FINISHED" and left_behind(journal_home(root)) == []
    assert {"wall time/train_s", "wall time/validate_s"} <= set(run.data.metrics)


# The parts alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, labels",
    [
        (["RBC", "a b", "x.y-z"], ("RBC", "a b", "x.y-z")),
        (["Löwe", "Lowe", "lowe"], ("Lowe 0", "Lowe 1", "lowe 2")),
        (["a/b", "a:b", ".."], ("a_b 0", "a_b 1", "class 2")),
        (["ключ", "细胞", ""], ("class 0", "class 1", "class 2")),
        (["a", "A", "a 0"], ("a 0", "A 1", "a 0 2")),
    ],
)
def test_class_names_become_metric_names_of_one_level_and_stay_distinct(names, labels):
    from mlflow.utils.validation import _validate_metric_name

    assert legal_labels(names) == labels
    for label in labels:
        _validate_metric_name(f"val class AP50-95/{label}")


def test_many_classes_are_cut_to_those_with_most_objects_the_same_in_every_epoch():
    rows = [
        {"name": f"kind {i}", "instances": i % 40, "ap": 0.5, "ap50": None if i == 39 else 0.7}
        for i in range(80)
    ]
    found = class_metrics(rows, "val", 4)
    assert sorted(found) == sorted(
        [f"val class AP50-95/kind {i}" for i in (38, 39, 78, 79)]
        + [f"val class AP50/kind {i}" for i in (38, 78, 79)]
    )
    assert class_metrics(rows, "val", 0) == {} and len(class_metrics(rows, "val", 100)) == 159


def test_a_validation_is_recorded_once_and_one_without_classes_is_nothing():
    metrics = ClassMetrics(5, "val")
    rows = [{"name": "a", "instances": 1, "ap": 0.25, "ap50": 0.5}]
    metrics.on_val_end(SimpleNamespace(scores=SimpleNamespace(per_class=rows)))
    assert (
        metrics.take() == {"val class AP50-95/a": 0.25, "val class AP50/a": 0.5}
        and metrics.take() == {}
    )
    metrics.on_val_end(SimpleNamespace())
    assert metrics.take() == {}


def test_more_early_epochs_are_drawn_than_late_ones_and_only_validated_ones():
    assert epochs_drawn(100, 1, 5) == {0, 6, 25, 56, 99}
    assert epochs_drawn(10, 4, 5) == {3, 7, 9} and epochs_drawn(12, 1, 11) == {*range(10), 11}
    for n, m in itertools.product(range(1, 40), repeat=2):
        assert len(epochs_drawn(n, 1, m)) == min(n, m) and n - 1 in epochs_drawn(n, 1, m)
    assert (
        epochs_drawn(3, 1, 10) == {0, 1, 2}
        and epochs_drawn(5, 1, 1) == {4}
        and epochs_drawn(5, 1, 0) == set()
    )


def policy_files(tmp_path, policy, every, epochs=5):
    """(journal folder, names queued) of a training whose best epoch is always the newest."""
    journal = Journal.create(tmp_path / "journal", "train")
    checkpoints = Checkpoints(
        TrackingConfig.build({"checkpoints": policy, "checkpoint_every_epochs": every})
    )
    trainer = SimpleNamespace(best=tmp_path / "best.pt", last=tmp_path / "last.pt", epoch=0)
    queued = []
    for trainer.epoch in range(epochs):
        for file in (trainer.best, trainer.last):
            file.unlink(missing_ok=True)
            file.write_text(f"{file.stem} {trainer.epoch}")
            file.with_suffix(".json").write_text(f'{{"sha256": "{trainer.epoch}"}}')
        queued += checkpoints.records(trainer, journal, is_end=False)
    queued += checkpoints.records(trainer, journal, is_end=True)
    return journal.folder, queued


@pytest.mark.parametrize(
    "policy, every, names",
    [
        ("none", 1, []),
        ("best", 2, ["best.pt"] * 3),
        ("last", 5, ["best.pt", "last.pt"]),
        (
            "all",
            2,
            ["best.pt", "epoch_0002.pt", "best.pt", "epoch_0004.pt", "best.pt", "epoch_0005.pt"],
        ),
    ],
)
def test_which_checkpoints_are_queued(tmp_path, policy, every, names):
    folder, queued = policy_files(tmp_path, policy, every)
    assert [Path(record["file"]).name for record in queued] == names
    assert all(record["once"] and record["folder"] == "checkpoints" for record in queued)
    left = [record["file"] for record in queued if (folder / record["file"]).exists()]
    assert len(left) == len(set(names))  # what is replaced anyway waits only once
    if "best.pt" in names:
        assert (
            folder / [file for file in left if file.endswith("best.pt")][0]
        ).read_text() == "best 4"


def test_watching_stops_without_a_word_where_it_cannot_be_kept(caplog):
    def full(values, step, at):
        raise OSError(28, "No space left on device")

    watch = MachineWatch(0.05, 0, full)
    watch.start()
    watch._thread.join(10)
    watch.stop()
    assert not watch._thread.is_alive() and "No space left" in caplog.text


def test_the_pictured_images_are_the_first_ones_over_small_batches_with_their_own_boxes(
    tmp_path, monkeypatch
):
    import torch

    from engine.detect import epoch_images

    drawn = {}
    monkeypatch.setattr(
        epoch_images,
        "plot_found",
        lambda batch, found, names, path: drawn.update(batch=batch, found=found),
    )
    monkeypatch.setattr(epoch_images, "plot_batch", lambda *_: None)
    artist = epoch_images.EpochArtist()
    for epoch in range(2):
        for start in range(0, 12, 4):
            numbers = torch.arange(start, start + 4)
            batch = {
                "img": (numbers / 255)[:, None, None, None].expand(4, 3, 2, 2),
                "im_file": [f"{n}.png" for n in numbers],
                "batch_idx": torch.tensor([0, 1, 1, 2, 3]),
                "bboxes": torch.full((5, 4), float(start)),
                "cls": numbers[torch.tensor([0, 1, 1, 2, 3])][:, None],
            }
            artist.catch(SimpleNamespace(batch=batch, results=[f"found {n}" for n in numbers]))
        plots = artist.take(SimpleNamespace(names=("a",), scores=None))(tmp_path)
        assert list(plots) == ["val pictures/predictions", "val pictures/labels"][: 2 - epoch]
        assert drawn["found"] == [f"found {n}" for n in range(6)]
        assert drawn["batch"]["im_file"] == [f"{n}.png" for n in range(6)]
        assert (
            drawn["batch"]["img"][:, 0, 0, 0].tolist() == list(range(6))
            and drawn["batch"]["img"].dtype == torch.uint8
        )
        # each image's boxes carry its number as class
        assert all(int(c) == i for i, c in zip(drawn["batch"]["batch_idx"], drawn["batch"]["cls"]))
        assert len(drawn["batch"]["bboxes"]) == 8


def test_drawing_holds_nobody_up_and_a_mistake_in_it_is_a_warning(tmp_path, caplog):
    import threading
    import time

    from engine.tracking.epoch_images import EpochImages

    go, recorded = threading.Event(), []
    image = Image.new("RGB", (4, 4))

    class Slow:
        def catch(self, validator):
            pass

        def take(self, validator):
            def draw(folder):
                assert go.wait(10)
                if validator == "broken":
                    raise RuntimeError("no ink")
                image.save(folder / "a.png")
                return {"a/b c+%": folder / "a.png"}

            return draw

    journal = Journal.create(tmp_path, "train")
    plots = EpochImages(Slow(), 3)
    began = time.monotonic()
    for step, validator in enumerate(("fine", "broken", "fine")):
        plots.on_train_epoch_end(
            SimpleNamespace(epoch=step, args=SimpleNamespace(epochs=3, val_period=1))
        )
        plots.draw(validator, journal, step, 77, lambda *records: recorded.extend(records))
        plots.draw(
            validator, journal, step, 77, lambda *records: recorded.extend(records)
        )  # once an epoch
    assert time.monotonic() - began < 1 and not recorded
    go.set()
    plots.finish(10)
    assert [(each["do"], each["key"], each["step"], each["at"]) for each in recorded] == [
        ("image", "a/b c__", step, 77) for step in (0, 2)
    ]
    assert "epoch 1 is not drawn: RuntimeError: no ink" in caplog.text
    go.clear()
    plots.on_train_epoch_end(SimpleNamespace(epoch=0, args=SimpleNamespace(epochs=3, val_period=1)))
    plots.draw("fine", journal, 9, 77, lambda *records: recorded.extend(records))
    plots.finish(0.05)  # interrupted: it is not waited for, and comes no more
    go.set()
    time.sleep(0.2)
    assert len(recorded) == 2
