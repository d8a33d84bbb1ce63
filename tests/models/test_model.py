"""The network: published parameter counts, shapes, head rules, and fusing that changes nothing."""

import math

import pytest
import torch

from engine.errors import ConfigError
from engine.models.yolov8 import SCALES, build_model, find_spec, fuse
from engine.models.yolov8.family import YOLOv8Family
from engine.models.yolov8.network import BINS, class_prior

PUBLISHED = {"n": 3_157_200, "s": 11_166_560, "m": 25_902_640, "l": 43_691_520, "x": 68_229_648}


def shaken(model):
    """Norm statistics that are not the identity, so that folding them wrongly shows."""
    g = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=g) + low)
    return model


@pytest.mark.parametrize("scale", PUBLISHED)
def test_parameter_counts_are_the_published_ones(scale):
    with torch.device("meta"):
        model = build_model(f"yolov8{scale}", 80)
    # The published counts include the constant projection of the distance bins, which is no
    # parameter here.
    assert sum(p.numel() for p in model.parameters()) + BINS == PUBLISHED[scale]


def test_a_640_input_has_8400_points_and_the_export_output_its_shape():
    with torch.no_grad():
        model = build_model("yolov8n", 80).eval()
        preds = model(torch.zeros(1, 3, 640, 640))
        assert preds.distances.shape == (1, 8400, 64) and preds.scores.shape == (1, 8400, 80)
        boxes, scores = YOLOv8Family().export_module(model, (64, 96))(torch.zeros(2, 3, 64, 96))
        points = (8 * 12) + (4 * 6) + (2 * 3)
        assert boxes.shape == (2, points, 4) and scores.shape == (2, points, 80)


def test_anchor_points_are_cell_centres_row_by_row():
    preds = build_model("yolov8n", 1).eval()(torch.zeros(1, 3, 32, 64))
    assert preds.points[:9].tolist() == [[x + 0.5, 0.5] for x in range(8)] + [[0.5, 1.5]]
    assert preds.points[-2:].tolist() == [[0.5, 0.5], [1.5, 0.5]]
    assert preds.strides[:, 0].tolist() == [8.0] * 32 + [16.0] * 8 + [32.0] * 2


def test_head_widths_and_first_biases():
    model = build_model("yolov8n", 80)
    assert (
        model.head.box[0][0].conv.out_channels == 64
        and model.head.cls[0][0].conv.out_channels == 80
    )
    assert build_model("yolov8n", 3).head.cls[0][0].conv.out_channels == 64
    assert build_model("yolov8n", 200).head.cls[0][0].conv.out_channels == 100
    for branch, stride, expected in zip(
        model.head.cls, (8, 16, 32), (-11.537, -10.150, -8.764), strict=True
    ):
        assert torch.allclose(branch[-1].bias, torch.tensor(expected), atol=1e-3)
        assert class_prior(80, stride) == pytest.approx(math.log(5 / 80 / (640 / stride) ** 2))
    assert all((branch[-1].bias == 1).all() for branch in model.head.box)


def test_fusing_changes_the_arithmetic_not_the_function_and_not_the_original():
    model = shaken(build_model("yolov8n", 4)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse(model)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for mine, theirs in zip(fused(x)[:2], model(x)[:2], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_every_image_of_a_batch_is_seen_alone():
    model = shaken(build_model("yolov8n", 4)).eval()
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, single = model(x), model(x[1:2])
    torch.testing.assert_close(whole.scores[1], single.scores[0], rtol=1e-4, atol=1e-4)


def test_a_scale_of_ones_own_in_a_file(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text("depth: 0.33\nwidth: 0.125\nmax_channels: 256\n")
    spec = find_spec(str(file))
    assert spec.name == "tiny" and [spec.channels(level) for level in range(1, 6)] == [
        8,
        16,
        32,
        32,
        32,
    ]
    assert find_spec(spec.to_dict()) == spec
    assert build_model(str(file), 2)(torch.zeros(2, 3, 32, 32)).scores.shape == (2, 21, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("depht: 1\nwidth: 1\nmax_channels: 512", "unknown key 'depht'. Did you mean 'depth'"),
        ("width: 1\nmax_channels: 512", "depth missing"),
        ("depth: yes\nwidth: 1\nmax_channels: 512", "depth must be a positive number"),
    ],
)
def test_a_wrong_model_file_is_explained(tmp_path, text, said):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        find_spec(str(tmp_path / "m.yaml"))


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'yolov8n'"):
        find_spec("yolo8n")
    assert [SCALES[name].repeats(6) for name in SCALES] == [2, 2, 4, 6, 6]
