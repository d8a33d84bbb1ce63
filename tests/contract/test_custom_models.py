"""docs/engine/custom-models.md, run from the page itself: models of the user's own train, validate,
save, resume and predict.
"""

import re
from pathlib import Path

import pytest
import torch

from engine.core.checkpoint import load_checkpoint
from engine.detect import DetectionTrainer
from engine.errors import CheckpointError, TrainingError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine" / "custom-models.md"
CHAPTERS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
BLOCKS = {
    title: re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for title, text in CHAPTERS
}
BACKBONE, OWN_LOSS = "Another backbone under our head", "A detector that computes its own loss"


def run_page(section: str, settings: dict, names: dict | None = None) -> dict:
    """Run the blocks of a section in their order; the one that chooses `settings` is answered with
    other ones.
    """
    values = {"__name__": "page", **(names or {})}
    for block in BLOCKS[section]:
        exec(compile(block, f"{PAGE.name}: {section}", "exec"), values)
        if "settings" in values and block.startswith("settings"):
            assert values["settings"]["epochs"] >= 30  # the page's own choice, too long for a test
            values["settings"] = settings
    return values


def test_a_torchvision_backbone_of_ones_own_under_our_head(tiny):
    page = run_page(BACKBONE, tiny(epochs=2))
    trainer, model = page["trainer"], page["model"]
    assert [path for path in model.state_dict() if path.startswith("backbone.body.features.")]
    saved = load_checkpoint(trainer.best)
    assert all(
        torch.equal(tensor, saved.weights[name]) for name, tensor in model.state_dict().items()
    )
    assert saved.meta["names"] == ["red", "blue"] and "architecture" not in saved.meta
    with pytest.raises(CheckpointError, match="a network of your own; only the code that made it"):
        DetectionTrainer(overrides=tiny(model=str(trainer.best))).train()


@pytest.fixture(scope="module")
def ssd(tmp_path_factory, squares):
    """The page's second section with a stock SSD, which is the fastest of them on 320 px."""
    folder = tmp_path_factory.mktemp("ssd")
    settings = {
        "model": "ssdlite320_mobilenet_v3_large",
        "data": str(squares),
        "imgsz": 64,
        "epochs": 9,
        "val_period": 3,
        "batch": 4,
        "lr0": 4e-3,
        "mosaic": 0.0,
        "scale": 0.1,
        "hsv_h": 0.0,
        "project": str(folder),
        "verbose": False,
        "device": "cpu",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "images").symlink_to(squares / "images" / "train")
        return run_page(OWN_LOSS, settings)


def test_a_stock_ssd_learns_with_its_own_loss(ssd):
    rows = ssd["trainer"].rows
    assert rows[-1]["train/classification"] < 0.6 * rows[0]["train/classification"]
    assert rows[-1]["train/bbox_regression"] < 0.6 * rows[0]["train/bbox_regression"]
    assert not [key for key in rows[0] if key.startswith("val/")]
    assert ssd["result"].metrics["metrics/mAP50"] > 0.01


def test_its_best_weights_validate_alone_with_the_same_figures(ssd):
    assert ssd["metrics"]["metrics/mAP50"] == pytest.approx(
        ssd["result"].metrics["metrics/mAP50"], abs=0.01
    )


def test_its_predictor_finds_the_squares(ssd):
    results = ssd["results"]
    assert len(results) == 8 and all(one.size == (64, 64) for one in results)
    hits = [one.detections for one in results if len(one.detections)]
    assert hits and all(set(found.classes.tolist()) <= {0, 1} for found in hits)


@pytest.mark.parametrize(
    ("name", "trainer_class"),
    [("retinanet_resnet50_fpn", "TorchvisionTrainer"), ("fcos_resnet50_fpn", "FCOSTrainer")],
)
def test_a_stock_detector_trains_on_a_rectangle_and_its_loss_falls(ssd, tiny, name, trainer_class):
    settings = tiny(
        model=name,
        epochs=3,
        val_period=3,
        imgsz=[64, 96],
        optimizer="SGD",
        lr0=0.01,
        ema=False,
        freeze="backbone.body.",
    )
    trainer = ssd[trainer_class](overrides=settings)
    trainer.train()
    assert trainer.rows[-1]["train/classification"] < trainer.rows[0]["train/classification"]
    assert set(trainer.metrics) >= {"metrics/mAP50", "metrics/mAP50-95"}


def test_it_resumes_to_the_same_bits(ssd, tiny):
    plan = tiny(model="ssdlite320_mobilenet_v3_large", epochs=2, fraction=0.5)
    trainer_class = ssd["TorchvisionTrainer"]
    trainer_class(overrides={**plan, "name": "whole"}).train()
    cut = trainer_class(overrides={**plan, "name": "cut"})

    def interrupt(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    cut.add_callback("on_train_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer_class(overrides={**plan, "name": "cut", "resume": True})
    resumed.train()
    whole = load_checkpoint(resumed.save_dir.parent / "whole" / "weights" / "last.pt")
    again = load_checkpoint(resumed.last)
    assert all(torch.equal(whole.model[name], again.model[name]) for name in whole.model)
    assert all(torch.equal(whole.ema[name], again.ema[name]) for name in whole.ema)


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
def test_a_criterion_that_answers_otherwise_is_told_what_is_wanted(tiny, answer, said):
    class Mistaken(DetectionTrainer):
        def criterion(self, preds, batch):
            return answer(*super().criterion(preds, batch))

    with pytest.raises(
        TrainingError, match=f"box_loss, cls_loss, dfl_loss; Mistaken.criterion returned {said}"
    ):
        Mistaken(overrides=tiny()).train()
