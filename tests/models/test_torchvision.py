"""torchvision's detectors as a family, against torchvision's own losses and post-processing."""

import pytest
import torch
import torchvision

from engine.config import DetectionTrainConfig, ExportConfig
from engine.core.checkpoint import Checkpoint, save_checkpoint
from engine.detect.model_io import model_meta
from engine.detect.runtime import load_runtime
from engine.errors import ConfigError
from engine.export import FORMATS, export
from engine.models.detections import padded
from engine.models.nms import nms
from engine.models.targets import image_targets
from engine.models.torchvision.family import TorchvisionFamily
from engine.models.torchvision.networks import NETWORKS, SSD, PatientBatchNorm, build
from engine.types import Batch

FAMILY = TorchvisionFamily()
SSDLITE = "ssdlite320_mobilenet_v3_large"
DENSE = [name for name, network in NETWORKS.items() if network.dense]
SMALL = [SSDLITE, "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]  # one of each kind
FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"
SIZE = (64, 96)


def config(name, **changes):
    return DetectionTrainConfig(model=f"torchvision:{name}", **changes)


def spec(name):
    return FAMILY.spec(f"torchvision:{name}", config(name))


def made(name, classes=3):
    torch.manual_seed(0)
    return build(name, classes)


def batch(images=2, boxes=((0.5, 0.5, 0.4, 0.4), (0.2, 0.3, 0.2, 0.5)), owners=(0, 0)):
    return Batch(
        img=torch.rand(images, 3, *SIZE, generator=torch.Generator().manual_seed(1)),
        bboxes=torch.tensor(boxes).reshape(-1, 4),
        cls=torch.tensor([[2.0], [0.0]])[: len(boxes)],
        batch_idx=torch.tensor(owners, dtype=torch.float32),
    )


def theirs(name, module, classes=3):
    """torchvision's own detector with the same weights, which resizes and normalises for itself."""
    background = NETWORKS[name].background
    net = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=classes + background
    )
    net.load_state_dict(module.state_dict())
    net.transform.min_size, net.transform.max_size = (min(SIZE),), max(SIZE)
    net.transform.fixed_size = None
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_have_the_names_and_shapes_of_torchvision(name):
    with torch.device("meta"):
        module = build(name, 91 - NETWORKS[name].background)
        net = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    wanted = {key: tensor.shape for key, tensor in net.state_dict().items()}
    if name.startswith("ssdlite"):  # its default builds a wider tail for ImageNet weights
        assert module.state_dict().keys() == wanted.keys()
        return
    assert {key: tensor.shape for key, tensor in module.state_dict().items()} == wanted


@pytest.mark.parametrize("name", [*SMALL, FASTER])
def test_losses_are_those_of_torchvision(name):
    module, data = made(name), batch()
    net = theirs(name, module)
    background = NETWORKS[name].background
    torch.manual_seed(3)  # Faster R-CNN draws which boxes it learns from
    loss, items = FAMILY.criterion(spec(name), config(name))(FAMILY.forward(module, data), data)
    torch.manual_seed(3)
    wanted = net.train()(list(data["img"]), image_targets(data, background))
    assert items.tolist() == pytest.approx(
        [float(wanted[key]) for key in NETWORKS[name].losses], rel=1e-4
    )
    assert float(loss.detach()) == pytest.approx(sum(items.tolist()), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("name", [*SMALL, FASTER])
def test_detections_are_those_of_torchvision(name):
    """After its own thresholds and suppression; scores of fresh networks lie close together, so
    their last layer is made livelier.
    """
    module = made(name)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if key in FAMILY.class_rows(module, spec(name), 3):
                parameter.normal_(0, 0.3)
        module.train()(batch()["img"], image_targets(batch()))  # norms see some images
    module.eval()
    net = theirs(name, module).eval()
    images = batch()["img"][:1]
    threshold, iou = 0.05, 0.5
    for holder in (net, getattr(net, "roi_heads", net)):
        holder.score_thresh, holder.nms_thresh = threshold, iou
        holder.detections_per_img, holder.topk_candidates = 100, 10_000
    with torch.no_grad():
        wanted = net(list(images))[0]
        boxes, scores = FAMILY.candidates(FAMILY.forward(module, {"img": images}))
    found = nms(boxes, scores, threshold, iou, max_det=100)[0]
    first = NETWORKS[name].background
    assert len(wanted["scores"]) > 3 and len(found[1]) == len(wanted["scores"])
    torch.testing.assert_close(found[1], wanted["scores"], rtol=1e-4, atol=1e-5)
    assert sorted(found[2].tolist()) == sorted((wanted["labels"] - first).tolist())
    torch.testing.assert_close(
        found[0].sum(0), wanted["boxes"].sum(0), rtol=1e-3, atol=0.1
    )  # equal scores may change places


@pytest.mark.parametrize("name", SMALL)
def test_the_static_module_of_export_says_the_same(name):
    module = made(name).eval()
    images = batch(images=3)["img"]
    with torch.no_grad():
        wanted = FAMILY.candidates(FAMILY.forward(module, {"img": images}))
        found = FAMILY.export_module(module, SIZE)(images)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert ((wanted[1] >= 0) & (wanted[1] <= 1)).all() and wanted[1].shape[-1] == 3
    assert (wanted[0][..., 2:] <= torch.tensor([96.0, 64.0])).all() and (wanted[0] >= 0).all()


@pytest.mark.parametrize("name", [SSDLITE, "fcos_resnet50_fpn", FASTER])
@pytest.mark.parametrize(
    ("images", "boxes", "owners"),
    [
        (1, ((0.5, 0.5, 0.4, 0.4),), (0,)),  # one image: the last maps have one value per channel
        (2, (), ()),  # no objects at all
        (2, ((0.5, 0.5, 0.4, 0.4), (0.2, 0.2, 0.0, 0.1)), (0, 1)),  # a box without an area
    ],
    ids=["one image", "no boxes", "a line"],
)
def test_small_and_empty_batches_train(name, images, boxes, owners):
    module, data = made(name), batch(images, boxes, owners)
    loss, items = FAMILY.criterion(spec(name), config(name))(FAMILY.forward(module, data), data)
    assert torch.isfinite(items).all()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_a_norm_is_torchs_own_wherever_that_has_an_answer():
    mine, torchs = PatientBatchNorm(4), torch.nn.BatchNorm2d(4)
    x = torch.rand(2, 4, 3, 3)
    assert torch.equal(mine(x), torchs(x)) and torch.equal(mine.running_var, torchs.running_var)
    single = torch.rand(1, 4, 1, 1)
    assert torch.equal(mine(single), torchs.eval()(single))


@pytest.mark.parametrize("name", [SSDLITE, "ssd300_vgg16", "retinanet_resnet50_fpn", FASTER])
def test_class_rows_are_all_that_another_number_of_classes_changes(name):
    with torch.device("meta"):
        two, three = build(name, 2), build(name, 3)
    shapes = {key: tensor.shape for key, tensor in two.state_dict().items()}
    changed = {key for key, tensor in three.state_dict().items() if tensor.shape != shapes[key]}
    assert set(FAMILY.class_rows(two, spec(name), 2)) == changed != set()


def test_class_rows_move_by_name_through_anchors_and_background():
    name = SSDLITE
    old, new = made(name, 2), made(name, 2)
    moved = FAMILY.transfer(new, old.state_dict(), ("a", "b"), ("b", "a"), spec(name))
    images = batch()["img"]
    for module in (old, new):
        module.eval()
    with torch.no_grad():
        before, after = (
            FAMILY.candidates(FAMILY.forward(module, {"img": images})) for module in (old, new)
        )
    torch.testing.assert_close(after[1], before[1].flip(-1))
    assert torch.equal(after[0], before[0]) and moved.fresh == ()


def test_settings_of_another_family_are_refused():
    for changes in ({"cls": 1.0}, {"class_weights": {"a": 2.0}}, {"backbone": "resnet18"}):
        (key,) = changes
        with pytest.raises(ConfigError, match=f"^{key}=.*torchvision:{SSDLITE} has no use for it"):
            FAMILY.spec(f"torchvision:{SSDLITE}", config(SSDLITE, **changes))


def lively(name, classes=3):
    """A network nobody trained whose objectness, scores and boxes differ from place to place."""
    module = made(name, classes)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "cls_score" in key or "rpn.head.cls" in key:
                parameter.normal_(0, 0.3)
            elif "bbox_pred" in key:
                parameter.normal_(0, 0.02)
        module.train()(batch()["img"], image_targets(batch()))  # norms see some images
    return module.eval()


def coarse_images(count):
    """(count, 3, h, w): patches of colour, of which a fresh network makes something."""
    small = torch.rand(count, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.interpolate(small, size=SIZE)


def rows(boxes, scores, image):
    """(k, 4 + C) rows of one image that hold something, in an order of their own."""
    kept = scores[image].amax(-1) > 0
    return torch.cat((boxes[image][kept], 100 * scores[image][kept]), -1)


def distances(one, other):
    """(k,) of each row of `one`: the largest difference to the nearest row of `other`."""
    return (one[:, None] - other[None]).abs().amax(-1).amin(1)


def test_faster_rcnn_of_fixed_shapes_finds_what_torchvisions_own_stages_find():
    module, images = lively(FASTER), coarse_images(3)
    with torch.no_grad():
        wanted = FAMILY.candidates(FAMILY.forward(module, {"img": images}))
        found = FAMILY.export_module(module, SIZE)(images)
    assert found[0].shape == (3, 300, 4) and found[1].shape == (3, 300, 3)
    for image in range(3):
        ours, theirs = rows(*found, image), rows(*wanted, image)
        assert len(ours) == len(theirs) > 20
        for one, other in ((ours, theirs), (theirs, ours)):  # equal scores may change places
            assert float(distances(one, other).max()) < 1e-3


def test_the_onnx_file_of_faster_rcnn_finds_what_pytorch_finds(tmp_path):
    """Whatever the number of images, also one; and the check of the export compared something."""
    names, images = ("a", "b", "c"), coarse_images(3)
    module, file = lively(FASTER), tmp_path / "best.pt"
    meta = model_meta(FAMILY, spec(FASTER), FASTER, names, SIZE, "")
    save_checkpoint(Checkpoint(meta, module.state_dict()), file)
    report = export(file, "onnx", tmp_path / "out", ExportConfig(check_images=4))
    assert report.check["detections"] > 20 and report.check["flips"] <= 2
    runtime = load_runtime(report.path, "cpu")
    with torch.no_grad():
        wanted = FAMILY.candidates(FAMILY.forward(module, {"img": images}))
    for part in (images, images[:1]):
        found = runtime(part)
        for image in range(len(part)):
            ours, theirs = rows(*found, image), rows(*wanted, image)
            near = distances(theirs, ours) < 0.2
            assert near.float().mean() > 0.95 and abs(len(ours) - len(theirs)) <= 3
            best = theirs[theirs[:, 4:].amax(-1).argsort(descending=True)[:10]]
            assert float(distances(best, ours).max()) < 0.2


def test_every_network_can_be_written_in_every_format():
    for name in NETWORKS:
        assert not any(FAMILY.can_export(spec(name), each) for each in FORMATS)
        assert FAMILY.selects(spec(name)) is not NETWORKS[name].dense
    assert NETWORKS[SSDLITE].losses == SSD


def test_selected_detections_become_rows_by_hand():
    one = {
        "boxes": torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6]]),
        "scores": torch.tensor([0.9, 0.5, 0.4]),
        "labels": torch.tensor([2, 0, 1]),
    }
    nothing = {key: value[:0] for key, value in one.items()}
    boxes, scores = padded([one, nothing], classes=2)
    assert scores.tolist()[1] == [[0, 0], [0, 0]]
    torch.testing.assert_close(scores[0], torch.tensor([[0, 0.9], [0.4, 0]]))
    assert boxes[0].tolist() == [[0, 0, 4, 4], [2, 2, 6, 6]]
    assert padded([], 2)[0].shape == (0, 0, 4)
