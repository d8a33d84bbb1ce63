"""Every method that the contract calls overridable is called: by keyword, with its documented
arguments and no others.
"""

import importlib.util
import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.config import TrainConfig
from engine.core.predictor import BasePredictor
from engine.core.trainer import BaseTrainer
from engine.core.validator import BaseValidator
from engine.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from engine.errors import ConfigError
from engine.export import FORMATS, Exporter
from engine.moved import GONE, MOVED, MOVED_ALONE
from engine.plugins import find_object

ROOT = Path(__file__).resolve().parents[2]

# The contract's table; None: "..." in it, the names are those of the base class.
TRAINER = {
    "get_model": {"cfg", "weights"},
    "get_dataloader": {"dataset_path", "batch_size", "mode", "rank"},
    "get_validator": set(),
    "criterion": {"preds", "batch"},
    "get_dataset": {"data"},
    "build_optimizer": None,
    "build_scheduler": None,
    "preprocess_batch": {"batch"},
    "optimizer_step": set(),
    "validate": set(),
    "label_loss_items": None,
    "save_model": set(),
    "plot_training_samples": None,
    "plot_metrics": set(),
    # Beside the table: what a model of one's own needs (docs/engine/custom-models.md).
    "forward": {"model", "batch"},
    "val_loss_items": {"preds", "batch"},
}
VALIDATOR = {
    "preprocess": {"batch"},
    "postprocess": {"preds"},
    "init_metrics": {"model"},
    "update_metrics": {"results", "batch"},
    "get_stats": set(),
    "plot_metrics": set(),
}
PREDICTOR = {
    "get_model": set(),
    "get_source": {"source"},
    "preprocess": {"batch"},
    "inference": {"inputs"},
    "postprocess": {"outputs", "batch"},
    "write_results": {"result"},
}


def recording(base: type, table: dict[str, set[str] | None]) -> tuple[type, dict[str, list]]:
    """A subclass of `base` that overrides every method of `table`, and what each was called with:
    (args, names).
    """
    calls: dict[str, list] = {name: [] for name in table}

    def override(name: str):
        def method(self, *args, **kwargs):
            calls[name].append((args, set(kwargs)))
            return getattr(super(cls, self), name)(*args, **kwargs)

        return method

    cls = type(f"Recorded{base.__name__}", (base,), {name: override(name) for name in table})
    return cls, calls


def check(calls: dict[str, list], table: dict[str, set[str] | None], documented: type) -> None:
    for name, seen in calls.items():
        assert seen, f"{name} was never called"
        known = set(inspect.signature(getattr(documented, name)).parameters) - {"self"}
        for args, names in seen:
            assert args == (), f"{name} was called with {len(args)} positional arguments"
            wanted = table[name]
            assert names == wanted if wanted is not None else names and names <= known, (
                f"{name} was called with {names}"
            )


def test_the_trainers_methods(tiny):
    trainer_class, calls = recording(DetectionTrainer, TRAINER)
    trainer_class(overrides=tiny(epochs=2)).train()
    check(calls, TRAINER, BaseTrainer)
    assert {name: len(seen) for name, seen in calls.items()} == {
        "get_model": 1,
        "get_dataloader": 2,
        "get_validator": 1,
        "criterion": 2 * (2 + 1),
        "get_dataset": 1,
        "build_optimizer": 1,
        "build_scheduler": 1,
        "preprocess_batch": 4,
        "optimizer_step": 4,
        "validate": 2,
        "label_loss_items": 4,
        "save_model": 2,
        "plot_training_samples": 2,
        "plot_metrics": 1,
        "forward": 2 * (2 + 1) + 1,
        "val_loss_items": 2,
    }


def test_the_validators_methods_in_training_and_alone(tiny, squares, trained):
    validator_class, calls = recording(DetectionValidator, VALIDATOR)
    trainer_class = type("Trainer", (DetectionTrainer,), {"validator_class": validator_class})
    trainer_class(overrides=tiny(epochs=2)).train()
    check(calls, VALIDATOR, BaseValidator)
    assert (
        len(calls["init_metrics"]) == 3 and len(calls["plot_metrics"]) == 1
    )  # two epochs and the best one, which is final
    for seen in calls.values():
        seen.clear()
    validator_class(overrides={"plots": False})(model=trained.best, data=squares)
    check(calls, VALIDATOR, BaseValidator)
    assert {len(seen) for seen in calls.values()} == {1}


def test_the_predictors_methods(trained, squares, tmp_path):
    predictor_class, calls = recording(DetectionPredictor, PREDICTOR)
    settings = {
        "model": str(trained.best),
        "batch": 3,
        "verbose": False,
        "project": str(tmp_path),
        "device": "cpu",
    }
    results = predictor_class(overrides=settings)(squares / "images" / "val")
    check(calls, PREDICTOR, BasePredictor)
    assert len(results) == len(calls["write_results"]) == 4 and len(calls["preprocess"]) == 2


def test_an_export_format_is_one_entry_in_a_table(trained, tmp_path, monkeypatch):
    seen, given = [], FORMATS["safetensors"]

    def write_mine(job, path):
        seen.append((type(job.module).__name__, path.suffix))
        given.write(job, path)

    mine = replace(given, name="mine", suffix=".mine", write=write_mine)
    monkeypatch.setitem(FORMATS, "mine", mine)
    report = Exporter()(trained.best, "mine", tmp_path)
    assert (
        seen == [("CandidateModule", ".mine")]
        and report.path == tmp_path / "best.mine"
        and report.path.is_file()
    )


def test_an_override_need_not_name_what_it_does_not_use(tiny):
    """The contract's own two-argument methods, without **kwargs."""

    class CustomTrainer(DetectionTrainer):
        def get_model(self, cfg, weights):
            return super().get_model(cfg, weights)

        def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
            return super().get_dataloader(dataset_path, batch_size, mode, rank)

        def criterion(self, preds, batch):
            return super().criterion(preds, batch)

        def save_model(self):
            super().save_model()
            (self.save_dir / "mine.txt").write_text(f"epoch {self.epoch}, {self.last.name}")

    trainer = CustomTrainer(overrides=tiny())
    trainer.train()
    assert (trainer.save_dir / "mine.txt").read_text() == "epoch 0, last.pt"


@pytest.mark.parametrize("spelling", ["get_dataloader", "get_dataloder"])
def test_a_dataloader_in_either_spelling(tiny, spelling):
    modes = []

    def mine(self, dataset_path, batch_size, mode="train", rank=0):
        modes.append((Path(dataset_path).name, batch_size, mode, rank))
        return getattr(super(trainer_class, self), spelling)(dataset_path, batch_size, mode, rank)

    trainer_class = type("CustomTrainer", (DetectionTrainer,), {spelling: mine})
    trainer_class(overrides=tiny()).train()
    assert modes == [("train.jsonl", 4, "train", 0), ("val.jsonl", 4, "val", 0)]


def test_what_must_be_overridden_says_so():
    trainer = BaseTrainer(config=TrainConfig())
    for name in ("get_model", "get_dataloader", "get_validator", "criterion"):
        with pytest.raises(NotImplementedError):
            getattr(trainer, name)(**dict.fromkeys(TRAINER[name]))


@pytest.mark.parametrize("split", [1, 2])
def test_a_plain_optimizer_of_torch_will_do(tiny, split):
    class OwnOptimizer(DetectionTrainer):
        def build_optimizer(self, model, name, lr, momentum, decay):
            parameters = list(model.parameters())
            return torch.optim.RMSprop(
                [{"params": parameters[i::split]} for i in range(split)], lr=lr
            )

    trainer = OwnOptimizer(overrides=tiny(lr0=1e-3, schedule="constant", warmup_epochs=0))
    trainer.train()
    names = ["lr/all"] if split == 1 else ["lr/group0", "lr/group1"]
    assert [trainer.rows[0][name] for name in names] == [1e-3] * split


@pytest.mark.parametrize(
    ("base", "name", "instead"),
    [
        (BaseTrainer, "decide_stop", "on_fit_epoch_end"),
        (DetectionTrainer, "record", "get_stats"),
        (DetectionTrainer, "figure_names", "declared_metrics"),
        (BaseValidator, "declared_figures", "declared_metrics"),
        (DetectionValidator, "declared_figures", "declared_metrics"),
        (DetectionValidator, "epoch_figures", "epoch_metrics"),
    ],
)
def test_an_override_that_nothing_calls_any_more_is_refused_with_what_takes_its_place(
    base, name, instead
):
    def own(self, *args):
        """As in earlier versions."""

    for bases in ((base,), (type("Mixin", (), {name: own}), base)):
        own_names = {name: own} if bases == (base,) else {}
        with pytest.raises(ConfigError, match=rf"Mine: '{name}'.* Instead: .*{instead}"):
            type("Mine", bases, own_names)
    fine = type("Fine", (base,), {"of_its_own": own})
    assert not hasattr(fine.__new__(fine), name)
    with pytest.raises(ConfigError, match=f"Fine: '{name}'"):
        setattr(fine.__new__(fine), name, own)


def test_what_took_the_place_of_decide_stop_ends_the_run(tiny):
    trainer = DetectionTrainer(overrides=tiny(epochs=3, plots=False))
    trainer.add_callback("on_fit_epoch_end", lambda t: setattr(t, "stop", True))
    assert trainer.train().epochs == 1


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ("from engine.kernel.trainer import BaseTrainer", "engine.core.trainer"),
        ("from engine.kernel import judge", "engine.core.early_stopping"),
        ("import engine.parts.data.loader", "engine.data.loader"),
        ("from engine.parts.metrics import DetectionMetrics", "engine.metrics"),
        ("from engine.tracking.environment import find_root", "engine.project.environment"),
        ("from engine.tuning.space import make_space", "engine.hpo.space"),
        ("from engine.parts.model import DetectionModel", "engine.models.yolov8.DetectionModel"),
        ("from engine.parts.plots import write_picture", "engine.plots.write_image"),
        ("from engine.tracking.trace_text import as_text", "engine.lineage.render"),
        ("from engine.tracking import trace_history", "engine.lineage.from_dvc"),
    ],
)
def test_an_import_of_an_old_module_says_its_new_name(line, new, tmp_path, monkeypatch):
    with pytest.raises(ModuleNotFoundError, match=rf"engine\.\w+.* is {re.escape(new)}"):
        exec(line, {})
    (tmp_path / "old_code.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=rf"old_code raised .* is {re.escape(new)}.*old_code.py:1"
    ):
        find_object("old_code:Mine", "trainer")


def test_every_new_name_of_an_old_module_is_one():
    new, old = [*MOVED_ALONE.values()], {*MOVED, *MOVED_ALONE, *GONE}
    for at, package in MOVED.items():
        kept = package.modules.split()
        new += [package.place, *(f"{package.place}.{name}" for name in kept)]
        new += package.renamed.values()
        old |= {f"{at}.{name}" for name in (*kept, *package.renamed)}
        holder = importlib.import_module(package.place)
        assert all(hasattr(holder, name) for name in package.names.split()), at
        for name in package.renamed_names.values():
            assert hasattr(holder, name.removeprefix(f"{package.place}.")), name
    for name in new:
        assert importlib.util.find_spec(name.split()[0]), name
    assert not {name for name in old if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()}
    with pytest.raises(ModuleNotFoundError, match="No module named 'engine.nothing'"):
        importlib.import_module("engine.nothing")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from engine.kernel import BaseTrainer", "'BaseTrainer' was no module of it: look for it"),
        ("import engine.parts.metrics.nothing", "engine.parts.metrics is engine.metrics now, and"),
        ("import engine.export.torchscript", "engine.export.torchscript is gone: .*format=onnx"),
        ("from engine.tracking.masking import mask", "is gone: .*tracking.code: diff uploads it"),
        ("from engine.tracking import moved", "is gone: .*docs/howto/mlflow.md"),
    ],
)
def test_what_never_was_a_module_gets_no_address_and_what_is_gone_says_what_to_do(line, said):
    with pytest.raises(ImportError, match=said):
        exec(line, {})
