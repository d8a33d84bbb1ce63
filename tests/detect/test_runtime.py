"""One callable for every weight file, and plain words for files that are none."""

import onnx
import pytest
import torch
from detectors import NAMES, SIZE, save_detector

from engine.detect.model_io import LoadedModel
from engine.detect.runtime import Runtime, choose_device, load_runtime, runtime_of
from engine.errors import CheckpointError, ConfigError
from engine.model_formats.metadata import decode_meta, encode_meta
from engine.models.registry import family_of
from engine.models.yolov8.decode import decode

CPU = torch.device("cpu")


def means(images):
    """Boxes (B, 1, 4), scores (B, 1, 1): a "detector" whose boxes say which images it saw, and
    whose scores how many at once.
    """
    flat = images.mean((1, 2, 3))[:, None, None]
    return flat.expand(-1, 1, 4), torch.full_like(flat, len(images))


def runtime(**other):
    return Runtime(means, ("a",), (64, 96), CPU, **other)


def test_a_checkpoint_runs_as_it_was_trained(tmp_path):
    path = save_detector(tmp_path / "best.pt")
    loaded = load_runtime(path, "cpu")
    assert (loaded.names, loaded.imgsz, loaded.stride, loaded.fixed_batch, loaded.fixed_size) == (
        NAMES,
        SIZE,
        32,
        None,
        None,
    )
    assert loaded.meta["model"] == "yolov8n"
    images = torch.rand(3, 3, 64, 96)
    boxes, scores = loaded(images)
    points = 8 * 12 + 4 * 6 + 2 * 3
    assert boxes.shape == (3, points, 4) and scores.shape == (3, points, 2)
    assert not boxes.requires_grad and loaded.needs_nms
    with torch.no_grad():
        wanted_boxes, wanted_scores = decode(loaded.function.module(images))
    torch.testing.assert_close(boxes, wanted_boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(scores, wanted_scores)


def test_a_size_is_refused_by_the_network_before_it_fails_there():
    """SSD300 takes any side from 268 px on: no stride says that."""
    family = family_of("torchvision:ssd300_vgg16")
    spec = {"name": "torchvision:ssd300_vgg16"}
    meta = {"stride": family.stride(spec), "architecture": spec}
    network = family.build(spec, 2).eval()
    loaded = runtime_of(LoadedModel(network, NAMES, (300, 300), meta, {}, family), CPU)
    assert loaded.input_size(None) == (300, 300) and loaded.input_size(301) == (301, 301)
    with pytest.raises(ConfigError, match="at least 268 for this network: got 160, try 268"):
        loaded.input_size(160)
    with pytest.raises(RuntimeError):  # what it would have been
        loaded(torch.zeros(1, 3, 160, 160))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_a_fixed_batch_is_filled_up_and_cut_again(count):
    images = torch.arange(count).float()[:, None, None, None].expand(count, 3, 64, 96)
    boxes, scores = runtime(fixed_batch=2)(images)
    assert boxes.shape == (count, 1, 4) and scores.shape == (count, 1, 1)
    assert boxes[:, 0, 0].tolist() == list(range(count)) and (scores == 2).all()


def test_the_input_size_is_as_trained_unless_wanted_otherwise():
    free, fixed = runtime(), runtime(fixed_size=(64, 64))
    assert (
        free.input_size(None) == (64, 96)
        and free.input_size(128) == (128, 128)
        and free.input_size((32, 64)) == (32, 64)
    )
    assert fixed.input_size(None) == fixed.input_size(64) == (64, 64)
    with pytest.raises(
        ConfigError, match="128x128 does not fit.*64x64 only.*export again with imgsz=128"
    ):
        fixed.input_size(128)
    for wrong, hint in ((100, "96 or 128"), ((16, 64), "32"), (0, "32")):
        with pytest.raises(ConfigError, match=f"must be a multiple of 32.*try {hint}"):
            free.input_size(wrong)


def test_devices_that_are_not_there_are_named():
    assert choose_device("cpu") == CPU and choose_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(ConfigError, match="'gpu0' is unknown"):
        choose_device("gpu0")
    with pytest.raises(ConfigError, match=r"'cuda:99' is not there: \d+ GPUs"):
        choose_device("cuda:99")


def bare_onnx(path, outputs=("boxes", "scores"), **props):
    """A valid ONNX file that gives its input back, under each of the names."""
    one, *out = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 32, 32])
        for name in ("x", *outputs)
    )
    nodes = [onnx.helper.make_node("Identity", ["x"], [name]) for name in outputs]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [one], out),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    onnx.helper.set_model_props(model, props)
    path.write_bytes(model.SerializeToString())
    return path


def test_files_that_cannot_be_run_say_why(tmp_path):
    def refused(name, match, content=None):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=match):
            load_runtime(path, "cpu")

    refused(
        "best.tflite",
        r"cannot run a '.tflite' file; known are .pt, .onnx, .safetensors\.",
    )
    refused("best.onnx", "no such file. Train a model first")
    for suffix in ("pt", "safetensors", "onnx"):
        refused(f"text.{suffix}", rf"text\.{suffix}: (not a|damaged)", b"this is no model at all")
        refused(f"empty.{suffix}", rf"empty\.{suffix}: (not a|damaged)", b"")
    bare_onnx(tmp_path / "foreign.onnx")
    refused("foreign.onnx", "lacks the metadata names, imgsz, stride: not exported by this project")
    bare_onnx(tmp_path / "damaged.onnx", names="[1, 2", imgsz="[32, 32]", stride="32")
    refused("damaged.onnx", r"its metadata 'names' is damaged: '\[1, 2'")
    bare_onnx(tmp_path / "old.onnx", ("output",), names='["a"]', imgsz="[32, 32]", stride="32")
    refused("old.onnx", "exported by an older version .*: export again with `detectflow export")
    refused("best.torchscript", "no longer opened: export the weights as ONNX", b"PK")


def test_what_a_file_says_of_its_shape_is_kept(tmp_path):
    texts = {"names": '["x"]', "imgsz": "[32, 32]", "stride": "32", "weights_sha256": "12345"}
    loaded = load_runtime(bare_onnx(tmp_path / "a.onnx", **texts), "cpu")
    assert (loaded.names, loaded.fixed_batch, loaded.fixed_size) == (("x",), 1, (32, 32))
    assert loaded.meta["weights_sha256"] == "12345"  # a text that looks like a number stays a text
    images = torch.rand(3, 3, 32, 32)
    for output in loaded(images):
        torch.testing.assert_close(output, images)


def test_text_metadata_become_plain_data(tmp_path):
    plain = {"names": ["a", "ä"], "imgsz": [64, 96], "stride": 32, "batch": None, "model": "12"}
    texts = encode_meta(plain)
    assert texts["names"] == '["a", "ä"]' and texts["model"] == "12"
    assert decode_meta(texts, tmp_path) == plain
    with pytest.raises(CheckpointError, match="lacks the metadata stride:"):
        decode_meta({"names": "[]"}, tmp_path, required=("names", "stride"))
