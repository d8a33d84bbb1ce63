"""Detectors of `transformers` as a family, against the library's own losses and post-processing."""

import copy
import json

import hf_networks
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.published import published
from engine.config import DetectionTrainConfig
from engine.core.ema import ModelEMA
from engine.errors import ConfigError
from engine.models.catalogue import CATALOGUE
from engine.models.hf.family import HfFamily, column, library_targets
from engine.models.hf.folder import read_folder, read_state
from engine.models.hf.network import build
from engine.models.nms import nms
from engine.types import Batch

FAMILY = HfFamily()
SIZE, SQUARE = (64, 96), (64, 64)
KINDS = list(hf_networks.KINDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """kind -> (model=, the library's own module)."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = f"hf:{folder}", hf_networks.save(folder, kind)
    return found


def size_of(model):
    return SQUARE if "rf_detr" in model else SIZE  # its windows are cut from squares


def config(model, **changes):
    return DetectionTrainConfig(model=model, imgsz=size_of(model), **changes)


def started(model, names=("red", "blue")):
    spec = FAMILY.spec(model, config(model))
    torch.manual_seed(0)
    module = FAMILY.build(spec, len(names))
    moved = FAMILY.start(module, spec, names)
    return spec, module, moved


def batch(images=2, boxes=((0.5, 0.5, 0.4, 0.4), (0.3, 0.3, 0.2, 0.5)), owners=(0, 0), size=SIZE):
    return Batch(
        img=torch.rand(images, 3, *size, generator=torch.Generator().manual_seed(1)),
        bboxes=torch.tensor(boxes).reshape(-1, 4),
        cls=torch.tensor([[1.0], [0.0], [1.0], [1.0]])[: len(boxes)],
        batch_idx=torch.tensor(owners, dtype=torch.float32),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_library(saved, kind):
    model, library = saved[kind]
    _, module, moved = started(model)
    h, w = size_of(model)
    images = batch(size=(h, w))["img"]
    with torch.no_grad():
        wanted = library(pixel_values=images)
        boxes, scores = FAMILY.candidates(FAMILY.forward(module.eval(), {"img": images}))
    assert (
        not moved.fresh and not moved.new and [row[0] for row in moved.classes] == ["red", "blue"]
    )
    logits, fractions = wanted.logits, wanted.pred_boxes
    mine = logits.softmax(-1)[..., :2] if kind == "detr" else logits.sigmoid()
    torch.testing.assert_close(scores, mine, rtol=1e-5, atol=1e-6)
    x, y, w, h = (fractions * torch.tensor([w, h, w, h])).unbind(-1)
    corners = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)
    torch.testing.assert_close(boxes, corners, rtol=1e-5, atol=1e-4)


def test_detections_are_those_of_the_librarys_post_processing(saved):
    from transformers import RTDetrImageProcessor

    model, library = saved["rt_detr_v2"]
    _, module, _ = started(model)
    images = batch()["img"]
    with torch.no_grad():
        wanted = RTDetrImageProcessor().post_process_object_detection(
            library(pixel_values=images), threshold=0.3, target_sizes=[SIZE, SIZE]
        )
        found = FAMILY.candidates(FAMILY.forward(module.eval(), {"img": images}))
    # The library takes as many (query, class) pairs as there are queries.
    for mine, theirs in zip(nms(*found, 0.3, None, max_det=12), wanted, strict=True):
        assert len(mine[0]) == len(theirs["scores"]) > 0
        torch.testing.assert_close(mine[1], theirs["scores"])
        torch.testing.assert_close(mine[0], theirs["boxes"], rtol=1e-4, atol=1e-3)
        assert mine[2].tolist() == theirs["labels"].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_librarys(saved, kind, training):
    model, library = saved[kind]
    spec, module, _ = started(model)
    data = batch(size=size_of(model))
    library = copy.deepcopy(library).train(training)  # norms learn in training mode
    module.train(training)
    torch.manual_seed(3)  # noisy copies of the targets are drawn
    wanted = library(pixel_values=data["img"], labels=library_targets(data))
    torch.manual_seed(3)
    preds = FAMILY.forward(module, data)
    loss, items = FAMILY.criterion(spec, config(model))(preds, data)
    assert float(loss.detach()) == pytest.approx(float(wanted.loss.detach()), rel=1e-4)
    by_name = dict(zip(FAMILY.losses(spec), items.tolist(), strict=True))
    assert {"aux_loss", "loss_bbox", "loss_giou"} <= set(by_name)
    noisy = kind not in {"detr", "rf_detr"}
    assert ("dn_loss" in by_name) == noisy
    if noisy:  # the others' terms come without their weights
        assert sum(by_name.values()) == pytest.approx(float(loss.detach()), rel=1e-4)
        assert (by_name["dn_loss"] > 0) == training
    last = {
        key: float(value.detach()) for key, value in wanted.loss_dict.items() if column(key) == key
    }
    assert last and all(by_name[key] == pytest.approx(last[key], rel=1e-3) for key in last)


def test_noisy_copies_count_in_their_own_terms_only(saved):
    """transformers before 5.24 matched them in the main term too (its pull request 48528)."""
    spec, module, _ = started(saved["d_fine"][0])
    data = batch()
    module.train()
    losses = []
    for seed in (0, 1):  # other copies, the same targets and weights
        torch.manual_seed(seed)
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        preds = FAMILY.forward(module, data)
        losses.append({key: float(value.detach()) for key, value in preds.terms.items()})
    assert losses[0]["loss_bbox_dn_0"] != losses[1]["loss_bbox_dn_0"]
    for key in ("loss_vfl", "loss_bbox", "loss_giou"):
        assert losses[0][key] == pytest.approx(losses[1][key], rel=1e-4), key


def test_two_processes_weigh_boxes_as_one(saved):
    model, _ = saved["rt_detr_v2"]
    spec, module, _ = started(model)
    boxes = ((0.5, 0.5, 0.4, 0.4), (0.3, 0.3, 0.2, 0.5), (0.6, 0.4, 0.3, 0.3), (0.4, 0.6, 0.2, 0.2))
    whole = batch(2, boxes, (0, 0, 0, 1))
    module.eval()  # no noisy copies, whose number follows from the fullest image of a process
    one = FAMILY.criterion(spec, config(model))
    wanted, items = one(FAMILY.forward(module, whole), whole)
    parts = []
    for i in range(2):
        mine = whole["batch_idx"] == i
        parts.append(
            Batch(
                img=whole["img"][i : i + 1],
                bboxes=whole["bboxes"][mine],
                cls=whole["cls"][mine],
                batch_idx=torch.zeros(int(mine.sum())),
            )
        )
    share = FAMILY.criterion(spec, config(model), ranks=2, sum_over_ranks=lambda x: x * 0 + 4)
    found = [share(FAMILY.forward(module, part), part) for part in parts]
    mean = sum(loss for loss, _ in found) / 2
    assert float(mean.detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
    torch.testing.assert_close(sum(terms for _, terms in found) / 2, items, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("images", "boxes", "owners"),
    [
        (1, ((0.5, 0.5, 0.4, 0.4),), (0,)),
        (2, (), ()),
        (2, ((0.5, 0.5, 0.4, 0.4), (0.2, 0.2, 0.0, 0.1)), (0, 1)),
        (1, tuple((0.5, 0.5, 0.01 * i, 0.2) for i in range(1, 30)), (0,) * 29),
    ],
    ids=["one image", "no boxes", "a line", "more boxes than queries"],
)
def test_small_empty_and_full_batches_train(saved, kind, images, boxes, owners):
    model, _ = saved[kind]
    spec, module, _ = started(model)
    data = batch(images, boxes, owners, size_of(model))
    data["cls"] = torch.ones(len(boxes), 1)
    loss, items = FAMILY.criterion(spec, config(model))(FAMILY.forward(module, data), data)
    assert torch.isfinite(items).all()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_every_weight_of_rf_detr_has_a_gradient(saved):
    """Several processes wait for each: the mask token of its backbone's pre-training has none."""
    _, module, _ = started(saved["rf_detr"][0])
    FAMILY.forward(module, batch(size=SQUARE)).loss.backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None]


def test_layers_that_stand_in_two_places_are_stored_and_averaged_once(saved):
    spec, module, _ = started(saved["d_fine"][0])
    state = module.state_dict()
    assert module.aliases and not set(module.aliases) & set(state)
    assert len({tensor.data_ptr() for tensor in state.values() if tensor.numel()}) == sum(
        tensor.numel() > 0 for tensor in state.values()
    )
    other = FAMILY.build(spec, 2)
    other.load_state_dict(state)
    twice = dict(module.named_parameters(remove_duplicate=False))
    mine = dict(other.named_parameters(remove_duplicate=False))
    assert all(torch.equal(mine[name], value) for name, value in twice.items())
    average = ModelEMA(module, decay=0.5, tau=1e-9)
    first = state["model.enc_score_head.bias"].clone()
    shared = next(iter(module.aliases.values()))
    before = state[shared].clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    average.update(module)
    averaged = average.module.state_dict()
    torch.testing.assert_close(averaged["model.enc_score_head.bias"], first + 0.5)
    torch.testing.assert_close(averaged[shared], before + 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_found_again_by_name_and_new_ones_start_rare(saved, kind):
    model, library = saved[kind]
    _, module, moved = started(model, ("green", "blue"))
    assert moved.new == ("green",) and moved.left == ("red",)
    assert [(name, old, new) for name, old, new in moved.classes] == [("blue", 1, 1)]
    theirs = dict(library.named_parameters(remove_duplicate=False))
    mine = dict(module.named_parameters(remove_duplicate=False))
    if kind == "detr":
        rows = mine["class_labels_classifier.weight"], theirs["class_labels_classifier.weight"]
        assert torch.equal(rows[0][1], rows[1][1]) and torch.equal(rows[0][2], rows[1][2])
        assert not torch.equal(rows[0][0], rows[1][0])
        return
    heads = {"rf_detr": ("class_embed.", "model.enc_out_class_embed.2.")}
    for head in heads.get(kind, ("class_embed.0.", "model.enc_score_head.")):
        for name in (f"{head}weight", f"{head}bias"):
            assert torch.equal(mine[name][1], theirs[name][1])
            assert not torch.equal(mine[name][0], theirs[name][0])
        prior = torch.sigmoid(mine[f"{head}bias"][0])
        assert float(prior.detach()) == pytest.approx(0.01, rel=1e-3)
    if kind == "rf_detr":
        return
    noisy = "model.denoising_class_embed.weight"  # its last row stands for no class
    assert torch.equal(mine[noisy][2], theirs[noisy][2])
    assert torch.equal(mine[noisy][1], theirs[noisy][1])


def test_the_recipe_counts_where_nothing_is_given(saved):
    model, _ = saved["d_fine"]
    recipe = FAMILY.recipe(FAMILY.spec(model, config(model)))
    assert recipe["slow"] == {"model.backbone.": 0.1} and recipe["clip_norm"] == 0.1
    assert recipe["optimizer"] == "AdamW"
    assert config(model, **recipe).slow == {"model.backbone.": 0.1}


SMALLEST = {"d_fine": 64, "rt_detr_v2": 64, "rf_detr": 32, "detr": 32}


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_size_is_what_the_library_takes_and_one_step_less_it_does_not(saved, kind):
    model, library = saved[kind]
    spec = FAMILY.spec(model, config(model))
    least, step = FAMILY.smallest(spec), FAMILY.stride(spec)
    assert (least, step) == (SMALLEST[kind], 16 if kind == "rf_detr" else 32)
    FAMILY.check_size(spec, (least, least))
    with torch.no_grad():
        found = library(pixel_values=torch.rand(1, 3, least, least))
    assert found.pred_boxes.isfinite().all()
    less = least - step
    for wrong in (less, least - 1, least + 1):
        with pytest.raises(ConfigError, match=f"imgsz must be .*{least}"):
            FAMILY.check_size(spec, (wrong, wrong))
    if less:  # fewer cells than queries, the library itself
        with torch.no_grad(), pytest.raises(Exception, match="out of range"):
            library(pixel_values=torch.rand(1, 3, less, less))


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [
        ("d_fine", (64, 32), r"fewer cells than it has queries \(12\); 64x64 is the smallest"),
        ("d_fine", (100, 100), "got 100, try 96 or 128"),
        ("rf_detr", (72, 72), "got 72, try 64 or 80"),
        ("rf_detr", (64, 96), "takes squares only: try 64 or 96"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_near_ones_that_do(saved, kind, size, said):
    with pytest.raises(ConfigError, match=said):
        FAMILY.spec(saved[kind][0], DetectionTrainConfig(model=saved[kind][0], imgsz=size))


def test_the_library_mixes_the_windows_of_rf_detr_where_an_image_is_no_square(saved):
    """Why squares only: a patch does not come back to its place. Where this fails, it is repaired."""
    backbone = saved["rf_detr"][1].model.backbone.backbone
    for size, same in (((64, 64), True), ((64, 96), False)):
        h, w = size[0] // 8, size[1] // 8
        numbers = torch.arange(float(h * w)).view(1, h * w, 1)
        with_first = torch.cat((torch.full((1, 1, 1), -1.0), numbers), 1)
        windows = backbone.embeddings.window_partition(with_first, *size)[:, 1:]
        back = backbone.window_unpartition(windows, *size).reshape(1, h * w, 1)
        assert torch.equal(back, numbers) == same


def test_windows_of_lw_detr_are_counted_in_all():
    """Its configuration says how many windows an image has, RF-DETR's how many along a side."""
    lw = {"model_type": "lw_detr", "backbone_config": {"patch_size": 16, "num_windows": 16}}
    rf = {"model_type": "rf_detr", "backbone_config": {"patch_size": 16, "num_windows": 2}}
    assert [FAMILY.stride({"config": each}) for each in (lw, rf)] == [64, 32]
    finer = {**lw, "projector_scale_factors": [2.0]}  # a map at 8 px
    assert [FAMILY.smallest({"config": each}) for each in (lw, finer, rf)] == [320, 192, 288]


PUBLISHED = [entry for entry in CATALOGUE if entry.family == "hf"]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_published_networks_have_the_sizes_that_the_catalogue_says(entry):
    plain = published(entry.name)
    spec = {"name": entry.name, "config": plain}
    least = entry.smallest_px
    assert FAMILY.smallest(spec) == least and least % FAMILY.stride(spec) == 0
    FAMILY.check_size(spec, (least, least))
    FAMILY.check_size(spec, (entry.measured_px, entry.measured_px))
    for side in (least - FAMILY.stride(spec), least - 1):
        with pytest.raises(ConfigError, match=f"try {least}"):
            FAMILY.check_size(spec, (side, side))
    with torch.device("meta"):
        module = build(plain, 80, [0.0] * 3, [1.0] * 3)
    count = sum(p.numel() for p in module.parameters()) / 1e6
    assert count == pytest.approx(entry.params, rel=0.02, abs=0.06)


def test_d_fine_n_takes_256_px_and_not_224():
    """The published network itself, with random weights."""
    network = build(published("ustc-community/dfine-nano-coco"), 80, [0.0] * 3, [1.0] * 3).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 256, 256)).boxes.shape == (1, 300, 4)
        with pytest.raises(RuntimeError, match="out of range"):
            network(torch.rand(1, 3, 224, 224))


def _change(folder, file="config.json", **values):
    path = folder / file
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **values}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: _change(f, auto_map={"AutoModel": "x.Y"}), "run code that comes with"),
        (lambda f: _change(f, model_type="bert"), "'bert' is no detector"),
        (lambda f: _change(f, id2label={"1": "a", "2": "b"}), "does not count from 0 to 1"),
        (lambda f: (f / "config.json").write_text("["), "cannot be read"),
        (lambda f: (f / "config.json").unlink(), "no such file"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "can run code"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights as .safetensors"),
        (
            lambda f: _change(f, "preprocessor_config.json", do_normalize=True, image_mean=[0]),
            "three",
        ),
        (lambda f: _change(f, decoder_layers=3), "not in its weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04"), "damaged or not"),
        (lambda f: _change(f, encoder_attention_heads=5), "the library says"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_words(tmp_path, harm, said):
    hf_networks.save(tmp_path)
    harm(tmp_path)
    model = f"hf:{tmp_path}"
    with pytest.raises(ConfigError, match=said) as caught:
        started(model)
    assert str(tmp_path) in str(caught.value) and "Traceback" not in str(caught.value)


def test_tensors_that_are_missing_are_named(tmp_path):
    hf_networks.save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("model.enc_score_head.bias")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="model.enc_score_head.bias"):
        read_state(read_folder(tmp_path))


def test_images_are_normalised_as_the_processor_says(tmp_path):
    library = hf_networks.save(tmp_path)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    _change(tmp_path, "preprocessor_config.json", do_normalize=True, image_mean=mean, image_std=std)
    _, module, _ = started(f"hf:{tmp_path}")
    images = batch()["img"]
    normal = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            module.eval()(images).logits, library(pixel_values=normal).logits, rtol=1e-5, atol=1e-5
        )
