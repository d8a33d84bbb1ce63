"""Starting from what was learnt before: class rows by name, torchvision backbones without network;
settings of the data.
"""

import logging
import re
import urllib.request

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from engine.core.checkpoint import load_checkpoint
from engine.detect import DetectionTrainer, DetectionValidator
from engine.errors import CheckpointError, ConfigError
from engine.models.yolov8 import build_model
from engine.models.yolov8.backbones import LAYERS, TorchvisionBackbone, load_pretrained
from engine.models.yolov8.spec import find_spec

ROWS = [
    f"head.cls.{i}.2.{part}" for i in range(3) for part in ("weight", "bias")
]  # one row per class


# From one's own checkpoint ------------------------------------------------------------------------


@pytest.fixture
def start_weights(tiny):
    """The weights with which a run begins."""

    def at_start(**changes):
        trainer, seen = DetectionTrainer(overrides=tiny(**changes)), {}

        def keep(t):
            seen.update({name: tensor.clone() for name, tensor in t.model.state_dict().items()})
            t.stop = True

        trainer.add_callback("on_train_start", keep)
        trainer.train()
        return seen

    return at_start


@pytest.mark.parametrize(
    ("names", "moved", "said"),
    [
        (("red", "blue"), {0: 0, 1: 1}, "classes by name: red, blue"),
        (("blue", "red"), {0: 1, 1: 0}, r"classes by name: blue \(1 -> 0\), red \(0 -> 1\)"),
        (("blue",), {0: 1}, r"classes by name: blue \(1 -> 0\); classes left behind: red"),
        (
            ("green", "blue", "red"),
            {1: 1, 2: 0},
            r"classes by name: blue, red \(0 -> 2\); new classes: green",
        ),
        (
            ("green", "white"),
            {},
            "none in common; new classes: green, white; classes left behind: red, blue",
        ),
    ],
    ids=["same", "permuted", "subset", "superset", "disjoint"],
)
def test_class_rows_are_found_by_name(
    trained, make_squares, start_weights, tmp_path, caplog, names, moved, said
):
    data = make_squares(tmp_path / "data", names, counts={"train": 3, "val": 3})
    with caplog.at_level(logging.INFO, "detectflow"):
        mine = start_weights(model=str(trained.best), data=str(data))
    fresh, old = start_weights(data=str(data)), load_checkpoint(trained.best).weights
    for name in ROWS:
        for number in range(len(names)):
            source = old[name][moved[number]] if number in moved else fresh[name][number]
            assert torch.equal(mine[name][number], source), (name, number)
    assert all(torch.equal(mine[name], old[name]) for name in mine if name not in ROWS)
    reported = [record.message for record in caplog.records if "starting from" in record.message]
    assert len(reported) == 1 and re.search(said, reported[0]), reported


def test_a_run_from_a_checkpoint_goes_on_where_it_was(trained, tiny):
    """With a rate of almost nothing the metrics stay those of the checkpoint."""
    result = DetectionTrainer(overrides=tiny(model=str(trained.best), lr0=1e-9)).train()
    assert result.metrics["metrics/mAP50"] == pytest.approx(
        trained.metrics["metrics/mAP50"], abs=0.02
    )


def test_the_weights_of_a_run_start_another_from_safetensors_too(trained, tmp_path, start_weights):
    from engine.export import export

    file = export(trained.best, "safetensors", tmp_path).path
    mine, old = start_weights(model=str(file)), load_checkpoint(trained.best).weights
    assert all(torch.equal(mine[name], old[name]) for name in old)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"backbone": "resnet18"},
            "backbone=resnet18: .*best.pt brings its own network .yolov8n, backbone of the family.",
        ),
        (
            {"backbone": "resnet18", "pretrained": True},
            "backbone=resnet18: .*leave it out, or give a model name",
        ),
    ],
)
def test_a_checkpoint_and_another_backbone_contradict_each_other(trained, tiny, changes, said):
    with pytest.raises(ConfigError, match=said):
        DetectionTrainer(overrides=tiny(model=str(trained.best), **changes)).train()


# From an ImageNet backbone ------------------------------------------------------------------------


def whole_network(name: str) -> dict[str, torch.Tensor]:
    """What torchvision's own file of this network holds, classifier included; random here."""
    torch.manual_seed(7)
    return torchvision.models.get_model(name, weights=None).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_local_file_fills_the_backbone(tmp_path, name, suffix):
    state, file = whole_network(name), tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    backbone = TorchvisionBackbone(name)
    load_pretrained(backbone, str(file))
    mine = backbone.body.state_dict()
    assert len(mine) > 50 and all(torch.equal(tensor, state[key]) for key, tensor in mine.items())


def test_an_old_file_without_batch_counters_will_do(tmp_path):
    state = {
        key: tensor
        for key, tensor in whole_network("resnet18").items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "old.pth")
    backbone = TorchvisionBackbone("resnet18")
    load_pretrained(backbone, str(tmp_path / "old.pth"))
    assert torch.equal(backbone.body.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_training_on_a_local_backbone_starts_from_it_and_resumes_without_it(tiny, tmp_path, name):
    state, file = whole_network(name), tmp_path / "weights.pth"
    torch.save(state, file)
    plan = tiny(
        backbone=name, pretrained=str(file), freeze="backbone.", epochs=2, fraction=0.5, name="run"
    )
    trainer = DetectionTrainer(overrides=plan)

    def check(t):
        body = t.model.backbone.body.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in body.items())

    def interrupt(t):
        if t.epoch == 1:
            raise KeyboardInterrupt

    trainer.add_callback("on_train_start", check)
    trainer.add_callback("on_train_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert load_checkpoint(trainer.best).meta["architecture"]["backbone"] == name
    file.unlink()
    assert trainer.best_model().backbone.name == name
    resumed = DetectionTrainer(overrides={**plan, "resume": True})
    resumed.add_callback("on_train_end", check)  # frozen: neither weights nor statistics moved
    assert resumed.train().epochs == 2


def test_without_network_the_error_names_the_file_and_the_way_out(tiny, monkeypatch):
    monkeypatch.setattr(
        urllib.request, "_opener", None
    )  # it is made once, and would remember the proxy for other tests
    for variable in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(ConfigError) as caught:
        DetectionTrainer(overrides=tiny(backbone="resnet18", pretrained=True)).train()
    said = str(caught.value)
    assert said.startswith(
        "pretrained: resnet18-f37072fd.pth, the ImageNet weights of resnet18, could not be "
        "downloaded ("
    )
    assert said.endswith("give it as pretrained=path/to/resnet18-f37072fd.pth") and "\n" not in said


def test_what_was_downloaded_once_needs_no_network(tiny, tmp_path, monkeypatch, start_weights):
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    folder = tmp_path / ".cache" / "pretrained"
    folder.mkdir(parents=True)
    state = whole_network("resnet18")
    torch.save(state, folder / "resnet18-f37072fd.pth")
    mine = start_weights(backbone="resnet18", pretrained=True, freeze="backbone.")
    assert torch.equal(mine["backbone.body.conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda file: torch.save(whole_network("resnet18"), file),
            r"does not fit mobilenet_v3_large: \d+ of \d+ tensors",
        ),
        (
            lambda file: torch.save(
                {
                    **whole_network("mobilenet_v3_large"),
                    "features.0.0.weight": torch.zeros(8, 3, 3, 3),
                },
                file,
            ),
            r"1 of \d+ tensors.*first features.0.0.weight \(\(8, 3, 3, 3\) instead of \(16, 3, 3, "
            r"3\)\)",
        ),
        (
            lambda file: torch.save({"epoch": 3, "model": {}}, file),
            "expected a state dict .*found a dictionary with epoch, model",
        ),
        (lambda file: torch.save([1, 2], file), "expected a state dict .*found list"),
        (lambda file: file.write_bytes(b"no weights at all"), "not a readable state dict"),
        (
            lambda file: torch.save(
                {
                    **whole_network("mobilenet_v3_large"),
                    "features.0.0.weight": torch.full((16, 3, 3, 3), float("inf")),
                },
                file,
            ),
            "tensor 'features.0.0.weight' holds infinite values",
        ),
        (lambda file: None, "no such file"),
    ],
    ids=[
        "another network",
        "another width",
        "a checkpoint",
        "a list",
        "no weights",
        "no numbers",
        "missing",
    ],
)
def test_a_wrong_file_is_distinguished(tmp_path, write, said):
    file = tmp_path / "weights.pth"
    write(file)
    with pytest.raises(CheckpointError, match=said):
        load_pretrained(TorchvisionBackbone("mobilenet_v3_large"), str(file))


def test_pretrained_wants_a_backbone_that_can_have_it(tiny):
    with pytest.raises(ConfigError, match="set backbone too"):
        DetectionTrainer(overrides=tiny(pretrained=True))
    with pytest.raises(ConfigError, match="torchvision backbone"):
        load_pretrained(build_model("yolov8n", 2).backbone, True)
    with pytest.raises(
        ConfigError, match="backbone='resnet19' is not known. Did you mean 'resnet18'"
    ):
        TorchvisionBackbone("resnet19")


# Settings of data and loss, each as training shows it ---------------------------------------------


def test_class_weights_reach_the_loss(tiny, start_weights):
    """A class that weighs nothing does not move its bias; the other's moves."""
    weights = {"class_weights": {"red": 0.0}}
    before = start_weights(**weights)
    trainer = DetectionTrainer(overrides=tiny(**weights))
    trainer.train()
    for i in range(3):
        name = f"head.cls.{i}.2.bias"
        moved = trainer.model.state_dict()[name] != before[name]
        assert moved.tolist() == [False, True]


def test_class_weights_scale_the_class_term(tiny):
    losses = []
    for weights in (None, {"red": 3.0, "blue": 3.0}):
        trainer = DetectionTrainer(overrides=tiny(class_weights=weights))
        trainer.add_callback(
            "on_train_batch_end",
            lambda t: losses.append(t.loss_items) if t.batch_index == 0 else None,
        )
        trainer.train()
    plain, weighted = losses
    assert weighted[1] == pytest.approx(3 * float(plain[1]), rel=1e-5)
    assert weighted[0] == plain[0] and weighted[2] == plain[2]


def test_single_cls_makes_one_class_of_all(tiny, squares):
    trainer, classes = DetectionTrainer(overrides=tiny(single_cls=True)), set()
    trainer.add_callback(
        "on_train_batch_end", lambda t: classes.update(t.batch["cls"].reshape(-1).tolist())
    )
    result = trainer.train()
    assert (
        classes == {0.0}
        and trainer.model.nc == 1
        and load_checkpoint(result.best).meta["names"] == ["object"]
    )
    validator = DetectionValidator(overrides={"split": "val", "plots": False})
    assert validator(model=result.best, data=squares)["metrics/mAP50"] == pytest.approx(
        result.metrics["metrics/mAP50"], abs=0.02
    )
    assert [row["name"] for row in validator.scores.per_class] == [
        "object"
    ] and validator.scores.instances == 4


@pytest.mark.parametrize(("fraction", "images"), [(1.0, 8), (0.5, 4), (0.25, 2), (0.01, 1)])
def test_fraction_takes_the_same_fraction_of_the_training_images(tiny, fraction, images):
    seen = []
    for seed in (0, 1):
        trainer, files = DetectionTrainer(overrides=tiny(fraction=fraction, seed=seed)), set()
        trainer.add_callback(
            "on_train_batch_end", lambda t, files=files: files.update(t.batch["im_file"])
        )
        trainer.train()
        seen.append(files)
        assert len(trainer.validator.loader.dataset) == 4  # validation is whole
    assert len(seen[0]) == images and seen[0] == seen[1]


def test_multi_scale_varies_the_input_of_each_batch(tiny):
    trainer, sizes = (
        DetectionTrainer(overrides=tiny(imgsz=128, multi_scale=0.5, batch=1, epochs=2)),
        [],
    )
    trainer.add_callback(
        "on_train_batch_end", lambda t: sizes.append(tuple(t.batch["img"].shape[-2:]))
    )
    trainer.add_callback("on_val_batch_start", lambda v: sizes.append(v.batch["img"].shape[-1]))
    trainer.train()
    trained = [size for size in sizes if isinstance(size, tuple)]
    assert len(trained) == 16 and len(set(trained)) >= 3
    assert set(trained) <= {(side, side) for side in (64, 96, 128, 160, 192)}
    assert {size for size in sizes if isinstance(size, int)} == {128}


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_a_rectangle_is_a_rectangle_everywhere(tiny, squares, size):
    trainer, shapes = DetectionTrainer(overrides=tiny(imgsz=list(size))), set()
    trainer.add_callback("on_train_batch_end", lambda t: shapes.add(tuple(t.batch["img"].shape)))
    trainer.add_callback("on_val_batch_end", lambda v: shapes.add(tuple(v.batch["img"].shape)))
    result = trainer.train()
    assert shapes == {(4, 3, *size)} and load_checkpoint(result.best).meta["imgsz"] == list(size)
    alone = DetectionValidator(overrides={"split": "val", "plots": False})(
        model=result.best, data=squares
    )
    assert alone["metrics/mAP50"] == pytest.approx(result.metrics["metrics/mAP50"], abs=0.02)


def test_a_model_file_of_ones_own_can_name_a_backbone(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("depth: 0.33\nwidth: 0.25\nmax_channels: 1024\nbackbone: resnet18\n")
    assert (
        find_spec(str(file)).backbone == "resnet18"
        and build_model(str(file), 2).backbone.name == "resnet18"
    )
