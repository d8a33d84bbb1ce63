"""What may be resumed, with what, and what is refused in a sentence. That a resumed run is exact:
`test_kill.py`.
"""

import json
import shutil

import pytest
import torch
import yaml
from classifier import Accuracy, ClassifierTrainer, assert_same_run, csv_cells, make, settings_of

from engine.config import TrainConfig
from engine.core.checkpoint import load_checkpoint, read_sidecar
from engine.detect import DetectionTrainer
from engine.errors import CheckpointError, ConfigError


def interrupted(trainer, epoch, event="on_fit_epoch_end"):
    """Run it until `event` of `epoch`."""

    def interrupt(_):
        if trainer.epoch == epoch:
            raise KeyboardInterrupt

    trainer.add_callback(event, interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer


def edit_args(run, **changes):
    file = run / "args.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


# --- the same run ---------------------------------------------------------------------------------


def test_the_words_that_started_a_run_resume_it(tmp_path):
    """`auto` and empty stand for what was decided then; only another decision is refused."""
    words = {
        "optimizer": "auto",
        "lr0": None,
        "nbs": None,
        "warmup_epochs": None,
        "ema_tau_steps": None,
    }
    make(tmp_path, name="whole", **words).train()
    interrupted(make(tmp_path, name="cut", **words), 1)
    make(tmp_path, name="cut", resume=True, **words).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    with pytest.raises(ConfigError, match="optimizer: 'AdamW' then, 'SGD' now"):
        make(tmp_path, name="cut", resume=True, optimizer="SGD").train()


def test_a_checkpoint_says_which_run_is_meant(tmp_path):
    make(tmp_path, name="whole").train()
    cut = interrupted(make(tmp_path, name="cut"), 1)
    plan = {k: v for k, v in settings_of(tmp_path).items() if k not in ("project", "model")}
    again = ClassifierTrainer({**plan, "model": cut.last, "resume": True})
    again.train()
    assert again.save_dir == tmp_path / "cut"
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    with pytest.raises(
        CheckpointError, match="other: nothing to resume"
    ):  # a name that was given is the one that counts
        ClassifierTrainer(
            {**plan, "model": cut.last, "resume": True, "project": str(tmp_path), "name": "other"}
        ).train()
    with pytest.raises(ConfigError, match=r"model: 'linear' then, '.*best\.pt' now"):
        make(tmp_path, name="cut", model=str(cut.best), resume=True).train()


def test_a_configuration_of_another_kind_is_refused():
    with pytest.raises(
        ConfigError,
        match="config is a dict, not a TrainConfig; settings by name are given as overrides=",
    ):
        ClassifierTrainer(config={"epochs": 3})


def test_args_yaml_as_input_makes_the_same_run(tmp_path):
    make(tmp_path, name="first", optimizer="auto", lr0=None, save_period=1).train()
    again = TrainConfig.load(tmp_path / "first" / "args.yaml").with_overrides({"name": "again"})
    ClassifierTrainer(config=again).train()
    assert_same_run(tmp_path / "first", tmp_path / "again")
    written = [
        yaml.safe_load((tmp_path / name / "args.yaml").read_text()) for name in ("first", "again")
    ]
    assert {**written[0], "name": ""} == {**written[1], "name": ""}


def test_args_yaml_of_a_resumed_run_starts_a_run_of_its_own(tmp_path):
    interrupted(make(tmp_path, name="run"), 1)
    make(tmp_path, name="run", resume=True).train()
    config = TrainConfig.load(tmp_path / "run" / "args.yaml")
    assert not config.resume
    trainer = ClassifierTrainer(config=config)
    trainer.train()
    assert trainer.save_dir.name == "run2"
    assert_same_run(tmp_path / "run", tmp_path / "run2")


class Drawing(ClassifierTrainer):
    """Its validation and its callbacks draw random numbers, as a plot of random samples would."""

    def get_validator(self):
        class Noisy(Accuracy):
            def get_stats(self):
                return {**super().get_stats(), "metrics/noise": float(torch.rand(1))}

        return Noisy(self.get_dataloader(None, 7, mode="val"))


def test_what_happens_between_epochs_leaves_the_random_numbers_of_training_alone(tmp_path):
    make(tmp_path, name="quiet", epochs=4).train()
    Drawing(settings_of(tmp_path, name="whole", epochs=4)).train()
    for event in ("on_val_batch_end", "on_fit_epoch_end", "on_train_epoch_start"):
        interrupted(Drawing(settings_of(tmp_path, name=event, epochs=4)), 2, event)
        Drawing(settings_of(tmp_path, name=event, epochs=4, resume=True)).train()
        assert_same_run(tmp_path / "whole", tmp_path / event)
    quiet, whole = (
        load_checkpoint(tmp_path / name / "weights" / "last.pt").model
        for name in ("quiet", "whole")
    )
    assert all(torch.equal(quiet[key], whole[key]) for key in quiet)


def test_what_follows_a_checkpoint_comes_again_rather_than_never(tmp_path):
    """Killed in validation: the epoch's callbacks may not have run to their end, so they run
    again.
    """
    seen = []
    interrupted(make(tmp_path, name="run"), 1, "on_val_batch_end")
    trainer = make(tmp_path, name="run", resume=True)
    for event in ("on_train_epoch_end", "on_model_save", "on_fit_epoch_end"):
        trainer.add_callback(event, lambda t, event=event: seen.append((event, t.epoch)))
    trainer.train()
    assert seen == [
        (event, epoch)
        for epoch in (1, 2)
        for event in ("on_train_epoch_end", "on_model_save", "on_fit_epoch_end")
    ]
    done = make(tmp_path, name="run", resume=True)
    done.add_callback("on_fit_epoch_end", lambda t: pytest.fail("the run was complete"))
    assert done.train().stop_reason == "done"


def test_a_run_that_was_stopped_stays_stopped(tmp_path):
    """Killed after its last epoch, before its end: the request is remembered."""
    plan = {"name": "run", "epochs": 5}
    trainer = make(tmp_path, **plan)
    trainer.add_callback("on_fit_epoch_end", lambda t: setattr(t, "stop", t.epoch == 1))
    trainer.add_callback("on_final_eval_end", lambda t: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    result = make(tmp_path, resume=True, **plan).train()
    assert result.epochs == 2 and result.stop_reason == "stopped"


# --- more epochs ----------------------------------------------------------------------------------


def test_more_epochs_have_to_be_asked_for(tmp_path):
    make(tmp_path, name="run", epochs=2).train()
    with pytest.raises(
        ConfigError, match="planned with epochs=2, not 4: add extend=true .* or leave epochs out"
    ):
        make(tmp_path, name="run", epochs=4, resume=True).train()
    before = csv_cells(tmp_path / "run")
    result = make(tmp_path, name="run", epochs=4, extend=True, resume=True).train()
    assert result.epochs == 4 and result.stop_reason == "done"
    assert csv_cells(tmp_path / "run")[: len(before)] == before
    assert (
        make(tmp_path, name="run", epochs=4, resume=True).train().epochs == 4
    )  # from now on that is the plan


def test_an_extension_that_is_killed_at_once_can_be_resumed(tmp_path):
    """args.yaml has the new plan then, the checkpoint the old one."""
    for name in ("whole", "cut"):
        make(tmp_path, name=name, epochs=2).train()
    make(tmp_path, name="whole", epochs=5, extend=True, resume=True).train()
    interrupted(
        make(tmp_path, name="cut", epochs=5, extend=True, resume=True), 2, "on_train_batch_end"
    )
    assert load_checkpoint(tmp_path / "cut" / "weights" / "last.pt").training["epoch"] == 1
    make(tmp_path, name="cut", epochs=5, resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_stopped_early_is_extended_with_more_patience(tmp_path):
    plan = {"name": "run", "epochs": 30, "lr0": 1e-9, "ema": False}
    stopped = make(tmp_path, patience=2, **plan).train()
    assert stopped.stop_reason == "stopped"
    with pytest.raises(ConfigError, match="planned with patience=2, not 4: add extend=true"):
        make(tmp_path, patience=4, resume=True, **plan).train()
    longer = make(tmp_path, patience=4, extend=True, resume=True, **{**plan, "epochs": 40}).train()
    assert longer.epochs == stopped.epochs + 2


# --- what is refused ------------------------------------------------------------------------------


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    make(tmp_path, name="run", epochs=3).train()
    edit_args(tmp_path / "run", weight_decay=0.1, seed=7)
    with pytest.raises(
        ConfigError, match=r"last.pt is not of the run that .*args.yaml describes"
    ) as error:
        make(tmp_path, name="run", resume=True).train()
    assert "seed: 0 in the checkpoint, 7 in args.yaml" in str(error.value)
    assert "weight_decay: 0.0005 in the checkpoint, 0.1 in args.yaml" in str(error.value)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    make(tmp_path, name="a", epochs=2).train()
    make(tmp_path, name="b", epochs=2, momentum=0.5).train()
    for file in ("last.pt", "last.json"):
        shutil.copy(tmp_path / "b" / "weights" / file, tmp_path / "a" / "weights" / file)
    with pytest.raises(ConfigError, match="momentum: 0.5 in the checkpoint, 0.937 in args.yaml"):
        make(tmp_path, name="a", epochs=2, resume=True).train()


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
    make(tmp_path, name="run", epochs=4).train()
    with pytest.raises(
        ConfigError,
        match=r"already trained for 4 epochs, epochs=2: raise `epochs` and set extend=true",
    ):
        make(tmp_path, name="run", epochs=2, extend=True, resume=True).train()


def test_weights_alone_are_refused(tmp_path):
    make(tmp_path, name="run").train()
    for suffix in (".pt", ".json"):
        shutil.copy(
            tmp_path / "run" / "weights" / f"best{suffix}",
            tmp_path / "run" / "weights" / f"last{suffix}",
        )
    with pytest.raises(
        CheckpointError, match="holds weights only and cannot be resumed; use it as model= instead"
    ):
        make(tmp_path, name="run", resume=True).train()


def test_a_checkpoint_that_has_gone_does_not_start_the_run_again(tmp_path):
    make(tmp_path, name="run").train()
    weights = tmp_path / "run" / "weights"
    (weights / "last.pt").unlink()
    (weights / "last.prev.pt").rename(tmp_path / "kept.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is gone, and best\.pt beside it says"):
        make(tmp_path, name="run", resume=True).train()
    (tmp_path / "kept.pt").rename(weights / "last.prev.pt")  # goes on from there by itself
    make(tmp_path, name="whole").train()
    make(tmp_path, name="run", resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_refused_resume_changes_nothing(tmp_path):
    make(tmp_path, name="run", epochs=2).train()
    files = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    for changes in ({"epochs": 4}, {"momentum": 0.1}, {"epochs": 1, "extend": True}):
        with pytest.raises(ConfigError):
            make(tmp_path, **{"name": "run", "resume": True, "epochs": 2, **changes}).train()
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == files


def test_a_new_run_in_an_old_folder_killed_while_clearing_it_resumes_nothing_old(
    tmp_path, monkeypatch
):
    make(tmp_path, name="run", epochs=2).train()
    unlink, cleared = type(tmp_path).unlink, []

    def interrupt(path, **options):
        if cleared:
            raise KeyboardInterrupt
        cleared.append(path.name)
        unlink(path, **options)

    monkeypatch.setattr(type(tmp_path), "unlink", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, name="run", exist_ok=True, seed=3).train()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="nothing to resume"):
        make(tmp_path, name="run", resume=True).train()


# --- detectors ------------------------------------------------------------------------------------

DIGITS = """
name: digits
format: generated
generator: digits
options: {{train: 4, val: 2, test: 2, size: 64, max_px: {max_px}}}
names: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence: test
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path / "state"))
    (tmp_path / "digits.yaml").write_text(DIGITS.format(max_px=32))
    (tmp_path / "tiny.yaml").write_text("depth: 0.1\nwidth: 0.06\nmax_channels: 1024\n")
    return {
        "model": str(tmp_path / "tiny.yaml"),
        "data": str(tmp_path / "digits.yaml"),
        "imgsz": 64,
        "epochs": 2,
        "batch": 2,
        "project": str(tmp_path),
        "verbose": False,
        "device": "cpu",
        "plots": False,
    }


def test_the_file_a_run_started_from_may_be_gone(plan, tmp_path):
    DetectionTrainer({**plan, "name": "start", "epochs": 1}).train()
    begun = {**plan, "model": str(tmp_path / "start" / "weights" / "best.pt")}
    DetectionTrainer({**begun, "name": "whole"}).train()
    interrupted(DetectionTrainer({**begun, "name": "cut"}), 1, "on_train_batch_end")
    shutil.rmtree(tmp_path / "start")
    trainer = DetectionTrainer({**begun, "name": "cut", "resume": True})
    trainer.train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert isinstance(trainer.best_model(), torch.nn.Module)


def test_args_yaml_of_a_detector_makes_the_same_run(plan, tmp_path):
    trainer = DetectionTrainer({**plan, "name": "first"})
    trainer.train()
    again = (
        type(trainer.args).load(tmp_path / "first" / "args.yaml").with_overrides({"name": "again"})
    )
    DetectionTrainer(config=again).train()
    assert_same_run(tmp_path / "first", tmp_path / "again")


def test_data_that_changed_is_refused(plan, tmp_path):
    interrupted(DetectionTrainer({**plan, "name": "run"}), 0)
    (tmp_path / "digits.yaml").write_text(DIGITS.format(max_px=30))
    with pytest.raises(
        ConfigError,
        match=r"the data has changed since .*last\.pt was written \(digest \w{12} then, \w{12} "
        r"now\)",
    ):
        DetectionTrainer({**plan, "name": "run", "resume": True}).train()


def test_the_sidecar_keeps_the_order_of_columns(tmp_path):
    make(tmp_path, name="run", epochs=1).train()
    row = read_sidecar(tmp_path / "run" / "weights" / "last.pt")["row"]
    assert list(row)[:4] == ["epoch", "time_s", "train/ce_loss", "metrics/accuracy"]
    assert json.loads((tmp_path / "run" / "weights" / "last.json").read_text())["stop"] is False
