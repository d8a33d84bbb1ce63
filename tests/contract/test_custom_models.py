"""docs/engine/custom-models.md, run from the page itself: every way to a network goes through
training, validation, export, prediction, fine-tuning and resuming.
"""

import re
import sys
from pathlib import Path

import pytest
import torch

from engine.core.checkpoint import load_checkpoint
from engine.detect import DetectionPredictor, DetectionTrainer
from engine.detect.choose import trainer_class_of
from engine.detect.model_io import load_model
from engine.detect.runtime import load_runtime
from engine.detect.validator import validator_class_of
from engine.errors import CheckpointError, ConfigError, TrainingError
from engine.export import export

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine" / "custom-models.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
FILES = {match[1]: block for block in BLOCKS if (match := re.match(r"# (mine/\w+\.py)\n", block))}
CELLS = {"trainer": "mine.net:CellTrainer"}
FAMILY = {"model": "mine.family:CellFamily"}
SSD = {"model": "torchvision:ssdlite320_mobilenet_v3_large", "lr0": 0.002}
WAYS = {"trainer": CELLS, "family": FAMILY, "torchvision": SSD}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the page's modules, where commands are called."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield folder
        for name in [each for each in sys.modules if each.split(".")[0] == "mine"]:
            del sys.modules[name]


@pytest.fixture(scope="module", params=WAYS)
def way(request, project, squares):
    """Settings of a training, and its result."""
    settings = {
        "data": str(squares),
        "imgsz": 64,
        "epochs": 4,
        "batch": 4,
        "lr0": 0.004,
        "mosaic": 0.0,
        "project": str(project / request.param),
        "verbose": False,
        "device": "cpu",
        "plots": False,
        **WAYS[request.param],
    }
    trainer = trainer_class_of(settings.get("trainer"))(overrides=settings)
    return settings, trainer.train(), trainer


def test_its_loss_falls_and_every_term_is_logged(way):
    _, result, trainer = way
    names = [name for name in trainer.rows[0] if name.startswith("train/")]
    assert [f"train/{name}" for name in trainer.loss_names] == names and len(names) == 2
    first, last = (sum(row[name] for name in names) for row in (trainer.rows[0], trainer.rows[-1]))
    assert last < first
    assert [name for name in trainer.rows[0] if name.startswith("val/")] or trainer.args.trainer


def test_its_weights_say_what_made_them_and_are_loaded_by_that_alone(way):
    settings, result, trainer = way
    meta = load_checkpoint(result.best).meta
    assert (
        meta["family"]
        == {
            "mine.net:CellTrainer": "mine.net:CellTrainer",
            None: {FAMILY["model"]: FAMILY["model"]}.get(settings.get("model"), "torchvision"),
        }[settings.get("trainer")]
    )
    assert str(settings["project"]) not in str(meta)
    loaded = load_model(result.best)
    best = trainer.best_model().state_dict()
    assert all(
        torch.equal(tensor, best[name]) for name, tensor in loaded.module.state_dict().items()
    )


def test_validation_alone_says_the_same_as_training(way, squares):
    _, result, _ = way
    validator = validator_class_of(result.best)(overrides={"split": "val", "plots": False})
    metrics = validator(model=result.best, data=squares)
    assert metrics["metrics/mAP50"] == pytest.approx(result.metrics["metrics/mAP50"], abs=1e-6)


def test_an_exported_file_runs_without_its_code_and_says_the_same(way, project, squares):
    settings, result, _ = way
    report = export(result.best, "onnx", project / "export" / Path(settings["project"]).name)
    assert report.check["images"] == 8 and report.check["max_score"] < 1e-3
    runtime = load_runtime(report.path, "cpu")
    assert runtime.meta["family"] and runtime.names == ("red", "blue")
    found = [
        DetectionPredictor({"model": str(file), "save": False, "verbose": False, "conf": 0.05})(
            squares / "images" / "test"
        )
        for file in (result.best, report.path)
    ]
    for ours, theirs in zip(*found, strict=True):
        assert len(ours.detections) == len(theirs.detections)
        for box in ours.detections.boxes:  # equal scores may change places
            assert abs(theirs.detections.boxes - box).max(1).min() < 0.2


def test_fine_tuning_finds_class_rows_by_name(way, make_squares, tmp_path):
    settings, result, _ = way
    data = make_squares(tmp_path / "data", ("green", "blue", "red"), {"train": 3, "val": 3})
    plan = {**settings, "model": str(result.best), "data": str(data), "project": str(tmp_path)}
    trainer, start = trainer_class_of(settings.get("trainer"))(overrides=plan), {}

    def keep(t):
        start.update({name: tensor.clone() for name, tensor in t.model.state_dict().items()})
        t.stop = True

    trainer.add_callback("on_train_start", keep)
    trainer.train()
    old = load_checkpoint(result.best).weights
    same = [name for name in start if start[name].shape == old[name].shape]
    assert len(same) >= len(start) - 12 and all(torch.equal(start[n], old[n]) for n in same)
    name = next(each for each in start if each.endswith(("out.bias", "module_list.0.1.bias")))
    ahead = 4 if "out" in name else 1
    rows = start[name].view(-1, ahead + 3), old[name].view(-1, ahead + 2)
    assert torch.equal(rows[0][:, :ahead], rows[1][:, :ahead])
    assert torch.equal(rows[0][:, ahead + 2], rows[1][:, ahead])  # red: 0 -> 2
    assert torch.equal(rows[0][:, ahead + 1], rows[1][:, ahead + 1])  # blue: 1 -> 1


def test_it_resumes_to_the_same_bits(way, project):
    settings, _, whole = way
    trainer_class = trainer_class_of(settings.get("trainer"))
    cut = trainer_class(overrides={**settings, "name": "cut"})

    def interrupt(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    cut.add_callback("on_train_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer_class(
        overrides={"project": settings["project"], "name": "cut", "resume": True}
    )
    resumed.train()
    one, other = load_checkpoint(whole.last), load_checkpoint(resumed.last)
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)
    assert all(torch.equal(one.ema[name], other.ema[name]) for name in one.ema)


def test_weights_of_ones_own_network_are_trained_by_the_class_that_made_them(way, tiny):
    settings, result, _ = way
    if "trainer" not in settings:
        pytest.skip("a family needs no trainer")
    with pytest.raises(ConfigError, match="trainer=mine.net:CellTrainer made: give that trainer"):
        DetectionTrainer(overrides=tiny(model=str(result.best))).train()


def test_a_backbone_of_ones_own_under_our_head(project, tiny):
    values = {"__name__": "page"}
    for block in BLOCKS[-3:]:
        if block.startswith(("from mine.backbone", "trainer =")):
            exec(compile(block, PAGE.name, "exec"), values)
            if "trainer" not in values:
                assert values["settings"]["epochs"] >= 30  # too long for a test
                values["settings"] = tiny()
    model, result = values["model"], values["result"]
    saved = load_checkpoint(result.best)
    assert [path for path in model.state_dict() if path.startswith("backbone.body.features.")]
    assert all(torch.equal(t, saved.weights[name]) for name, t in model.state_dict().items())
    assert saved.meta["family"] == "mine.backbone:SmallTrainer"
    assert load_model(result.best).module.backbone.channels == (24, 48, 576)


def test_the_code_of_ones_own_is_missed_in_words(project, way, monkeypatch):
    settings, result, _ = way
    if settings.get("model") == SSD["model"]:
        pytest.skip("it needs none")
    for name in [each for each in sys.modules if each.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(project)])
    monkeypatch.chdir(project.parent)
    with pytest.raises(CheckpointError, match="no module 'mine'.*Put it into a module in the proj"):
        load_model(result.best)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda loss, items: loss, "Tensor"),
        (lambda loss, items: (loss, items.tolist()), "tuple of Tensor, list"),
        (
            lambda loss, items: (loss, items[:1]),
            r"shapes \(\) and \(1,\). Other terms\? Set loss_names",
        ),
        (lambda loss, items: (items, items), r"shapes \(3,\) and \(3,\)"),
    ],
)
def test_a_criterion_that_answers_otherwise_gets_an_error_with_what_is_wanted(tiny, answer, said):
    class Mistaken(DetectionTrainer):
        def criterion(self, preds, batch):
            return answer(*super().criterion(preds, batch))

    with pytest.raises(
        TrainingError, match=f"box_loss, cls_loss, dfl_loss; Mistaken.criterion returned {said}"
    ):
        Mistaken(overrides=tiny()).train()
