"""What a training starts from counts by its content; an output of a stage is refused; an
interrupted training is found again.
"""

import logging
import subprocess
from types import SimpleNamespace

import pytest
from workspaces import ROOT

from engine.config import Params
from engine.errors import ConfigError, WorkspaceError
from engine.stages import prepare, train
from engine.stages.layout import Layout, read_json, write_json
from engine.stages.start_weights import start_changed, start_digests, start_files
from engine.versioning.stage_inputs import load_definition, run_checked

TINY = {
    "data": {"options": {"train": 4, "val": 2, "test": 2, "size": 64, "max_px": 32}},
    "train": {
        "imgsz": 64,
        "epochs": 3,
        "batch": 4,
        "nbs": 4,
        "plots": False,
        "verbose": False,
        "device": "cpu",
    },
}


def params(**train_settings):
    return Params.build({**TINY, "train": {**TINY["train"], **train_settings}})


def test_kinds_of_network_are_no_files_and_names_are_seen_from_the_workspace(project):
    assert start_files(params().train, project) == {}
    assert start_files(params(model="a/b.pt").train, project) == {"model": project / "a/b.pt"}
    assert start_files(params(model="own.yaml").train, project) == {"model": project / "own.yaml"}
    both = params(backbone="resnet18", pretrained="/w/r.pth").train
    assert {key: str(file) for key, file in start_files(both, project).items()} == {
        "pretrained": "/w/r.pth"
    }
    assert start_files(params(backbone="resnet18", pretrained=True).train, project) == {}


@pytest.mark.parametrize(
    "inside",
    ["weights/best.pt", "export/best.safetensors", "data/prepared/x.pt", "reports/train/x.pt"],
)
def test_the_output_of_a_stage_is_no_start_and_the_way_out_is_reported(project, inside):
    with pytest.raises(
        ConfigError,
        match=r"which stage \w+ makes anew.*dvc checkout.*detectflow run -S train.model=",
    ):
        start_digests(params(model=inside).train, project)
    (project / inside).parent.mkdir(parents=True, exist_ok=True)
    (project / inside).write_bytes(b"w")
    (project / "link.pt").symlink_to(project / inside)
    with pytest.raises(ConfigError) as refused:
        start_digests(params(model="link.pt").train, project)
    assert "cp link.pt models/start/" in str(refused.value) and "dvc checkout" not in str(
        refused.value
    )


def test_a_start_that_is_missing_names_the_place_and_how_to_fetch_it(project):
    with pytest.raises(
        ConfigError, match=r"models/start/a.pt: no such file, seen from .*Put it there"
    ):
        start_digests(params(model="models/start/a.pt").train, project)
    (project / "models/a.pt.dvc").write_text("outs: []\n")
    with pytest.raises(ConfigError, match=r"`dvc pull .*models/a.pt.dvc`"):
        start_digests(params(model="models/a.pt").train, project)


@pytest.mark.parametrize(
    "key, settings", [("model", {}), ("pretrained", {"model": "yolov8n", "backbone": "resnet18"})]
)
def test_other_bytes_under_the_same_name_are_another_training(project, key, settings):
    layout, file = Layout(project), project / "start.pt"
    write_json(layout.prepared / "dataset.json", {"digest": "d"})
    wanted = params(**{**settings, key: "start.pt"})

    def mark():
        start = start_digests(wanted.train, project)
        return train.fingerprint(train.inputs_of(wanted, layout, start))

    file.write_bytes(b"one")
    one = mark()
    file.write_bytes(b"two")
    assert mark() != one
    file.write_bytes(b"one")
    assert mark() == one


def test_start_weights_that_change_under_the_training_are_noticed(project):
    file = project.parent / "start.bin"  # DVC knows nothing of it: only params.yaml names it
    file.write_bytes(b"one")
    text = (project / "params.yaml").read_text().replace("model: yolov8n ", f"model: {file} ")
    (project / "params.yaml").write_text(text)
    with pytest.raises(
        WorkspaceError, match=r"changed while it ran \(.*start.bin \(params.yaml: train.model\)"
    ):
        run_checked(project, load_definition(project, "train"), lambda: file.write_bytes(b"two"))
    assert run_checked(project, load_definition(project, "train"), lambda: "done")[0] == "done"


def test_whether_the_start_is_another_than_that_of_the_last_result(project):
    layout, file = Layout(project), project / "start.pt"
    wanted = params(model="start.pt")
    file.write_bytes(b"one")
    assert not start_changed(wanted, project)  # nothing was trained yet
    write_json(layout.origin("train"), {"start": start_digests(wanted.train, project)})
    assert not start_changed(wanted, project)
    file.write_bytes(b"two")
    assert start_changed(wanted, project)
    assert not start_changed(params(), project)
    file.unlink()  # a clone without it
    assert not start_changed(wanted, project)


def test_git_keeps_the_folders_and_leaves_the_weights_to_dvc():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    def ignored(name):
        return subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 0

    assert (ROOT / "models/start/README.md").is_file()  # dvc.yaml names the folder as an input
    assert all(
        map(
            ignored,
            ["models/best-1a2b3c4d.pt", "models/start/a.pt", "models/start/b/c.safetensors"],
        )
    )
    assert not any(
        map(
            ignored,
            ["models/start/README.md", "models/best-1a2b3c4d.pt.dvc", "models/start/a.pt.dvc"],
        )
    )


class Stop(KeyboardInterrupt):
    pass


def stop_after(epoch):
    """A callback as a tracker attaches it, pressing Ctrl-C when `epoch` (from 1) is complete."""

    def stop(trainer):
        if trainer.epoch + 1 == epoch:
            raise Stop

    return [("on_fit_epoch_end", stop)]


@pytest.mark.system
def test_an_interrupted_training_is_continued_by_its_own_settings_start_and_data_only(
    project, caplog
):
    caplog.set_level(logging.INFO, "detectflow")
    prepare.run(params(), project)
    first = params(epochs=1)
    assert train.run(first, project)["start"] == {}
    start = project / "models" / "start" / "one.pt"
    start.write_bytes(Layout(project).best.read_bytes())

    wanted = params(model="models/start/one.pt")
    with pytest.raises(Stop):
        train.run(wanted, project, callbacks=stop_after(1))
    other = params(model="models/start/one.pt", lr0=0.005)
    with pytest.raises(Stop):
        train.run(other, project, callbacks=stop_after(1))
    held = start.read_bytes()
    start.write_bytes(Layout(project).best.read_bytes() + b"\0")  # readable, but other bytes
    with pytest.raises(Stop):
        train.run(wanted, project, callbacks=stop_after(1))
    assert "resuming" not in caplog.text
    start.write_bytes(held)
    done = train.run(wanted, project)
    assert "resuming after epoch 1 of 3" in caplog.text and done["epochs"] == 3
    origin = read_json(Layout(project).origin("train"), "train")
    assert origin["start"] == start_digests(wanted.train, project) == done["start"]
    marks = [
        train.fingerprint(train.inputs_of(p, Layout(project), start_digests(p.train, project)))
        for p in (wanted, other)
    ]
    assert len(set(marks)) == 2 and all(
        (project / "runs" / "ckpt" / mark).is_dir() for mark in marks
    )


def test_the_time_that_is_left_counts_all_epochs_that_the_time_was_spent_on():
    """Resumed after 8 epochs of 10 s each, the ninth trained."""
    resumed = SimpleNamespace(
        epoch=8, start_epoch=8, args=SimpleNamespace(epochs=10), elapsed_s=lambda: 90.0, metrics={}
    )
    assert train.epoch_progress(resumed)["left_s"] == 10.0
