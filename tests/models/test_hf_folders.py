"""Folders of `transformers` that are not what they seem: refused before data are read, in words of
ours, and without a network."""

import json
import shutil
import socket

import hf_networks
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForObjectDetection

from engine.config import DetectionTrainConfig
from engine.errors import ConfigError
from engine.models.hf import configuration
from engine.models.hf.family import HfFamily
from engine.models.hf.folder import read_folder, read_state
from engine.models.hf.network import build, describe
from engine.models.transfer import transfer

FAMILY = HfFamily()
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Of each kind a folder with the classes red and blue."""
    folders = {}
    for kind in ("d_fine", "detr"):
        folders[kind] = tmp_path_factory.mktemp("made") / kind
        hf_networks.save(folders[kind], kind)
    return folders


@pytest.fixture
def copy(made, tmp_path):
    def copied(kind="d_fine", **keys):
        """A copy whose config.json has other values; `...` removes the key."""
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(made[kind], folder)
        config = json.loads((folder / "config.json").read_text()) | keys
        config = {key: value for key, value in config.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copied


def spec_of(folder, imgsz=64):
    return FAMILY.spec(f"hf:{folder}", DetectionTrainConfig(model=f"hf:{folder}", imgsz=imgsz))


def change(folder, harm):
    state = load_file(folder / "model.safetensors")
    harm(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def in_shards(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(state)
    files = {name: ("a" if i < 9 else "b") + ".safetensors" for i, name in enumerate(names)}
    for file in ("a.safetensors", "b.safetensors"):
        part = {name: state[name] for name in names if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


# Classes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["d_fine", "detr"])
def test_two_classes_without_names_have_the_librarys(copy, kind):
    """`save_pretrained` writes no id2label where there are as many as its own default."""
    folder = copy(kind, id2label=..., label2id=...)
    names = ("LABEL_0", "LABEL_1")
    assert read_folder(folder).names == names
    spec = spec_of(folder)
    module = FAMILY.build(spec, 2)
    moved = FAMILY.start(module, spec, names)
    assert [name for name, *_ in moved.classes] == list(names) and not moved.fresh
    other = FAMILY.start(FAMILY.build(spec, 2), spec, ("red", "green"))
    assert other.new == ("red", "green") and other.left == names and not other.fresh


def test_names_are_those_the_library_itself_gives(tmp_path):
    for count in (2, 3):
        config = hf_networks.d_fine()
        config.num_labels = count
        AutoModelForObjectDetection.from_config(config).save_pretrained(tmp_path / str(count))
        assert read_folder(tmp_path / str(count)).names == tuple(f"LABEL_{i}" for i in range(count))


def test_no_classes_at_all_carry_nothing_over():
    module = torch.nn.Linear(2, 1)
    from engine.models.transfer import ClassRows

    moved = transfer(module, module.state_dict(), (), ("a",), {"bias": ClassRows()})
    assert moved.new == ("a",) and moved.fresh == ("bias",)


def test_more_names_than_rows_are_told_before_data_in_our_words(copy, capfd):
    folder = copy(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    with pytest.raises(ConfigError, match=r"id2label names another number of classes \(3\)") as e:
        spec_of(folder)
    assert "ignore_mismatched" not in str(e.value)
    assert "MISMATCH" not in "".join(capfd.readouterr())


def test_names_that_steer_a_terminal_are_refused(copy):
    with pytest.raises(ConfigError, match="id2label"):
        read_folder(copy(id2label={"0": "a\x1b[31m", "1": "b"}))


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "said"), [("nan", "NaN"), ("inf", "infinite values")])
def test_weights_that_are_no_numbers_are_refused_with_their_name(copy, value, said):
    folder = copy()
    name = "model.encoder_input_proj.0.0.weight"

    def harm(state):
        state[name][0, 0] = float(value)

    change(folder, harm)
    with pytest.raises(ConfigError, match=f"tensor '{name}' holds {said}"):
        spec_of(folder)
    with pytest.raises(ConfigError, match=f"tensor '{name}' holds {said}"):
        read_state(read_folder(folder))


def test_truncated_weights_are_refused_by_their_header(copy):
    folder = copy()
    whole = (folder / "model.safetensors").read_bytes()
    for length in (0, 7, 1000, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="model.safetensors: damaged or not whole"):
            read_folder(folder)


def test_shards_are_read_by_their_index(copy, made):
    folder = copy()
    in_shards(folder)
    assert [file.name for file in read_folder(folder).files] == ["a.safetensors", "b.safetensors"]
    found, wanted = read_state(read_folder(folder)), read_state(read_folder(made["d_fine"]))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_missing_shard_and_one_elsewhere_are_refused(copy, tmp_path):
    folder = copy()
    files = in_shards(folder)
    (folder / "a.safetensors").rename(tmp_path / "outside.safetensors")
    with pytest.raises(ConfigError, match="a.safetensors: no such file"):
        read_folder(folder)
    for bad in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), 3, "b.bin"):
        other = {name: bad if file[0] == "a" else file for name, file in files.items()}
        (folder / INDEX).write_text(json.dumps({"weight_map": other}))
        with pytest.raises(ConfigError, match="names .* which is no .safetensors file beside it"):
            read_folder(folder)


def test_tensors_that_are_missing_are_told_before_data(copy):
    folder = copy()
    change(folder, lambda state: state.pop("model.encoder_input_proj.0.0.weight"))
    with pytest.raises(ConfigError, match="1 tensors are not in its weights, first model.encoder"):
        spec_of(folder)


def test_changes_to_another_model_are_no_weights(copy):
    folder = copy()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    with pytest.raises(ConfigError, match="changes to another model's weights"):
        read_folder(folder)


# Configurations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", ["d_fine"]),
        ("model_type", None),
        ("model_type", "bert"),
        ("backbone_config", "x"),
        ("backbone_config", [1]),
        ("backbone_config", {"model_type": "hgnet_v2", "patch_size": 0}),
        ("feat_strides", [0]),
        ("feat_strides", [float("nan")]),
        ("feat_strides", "ab"),
        ("num_queries", "9"),
        ("num_queries", -1),
        ("num_queries", 10**9),
        ("patch_size", 0),
        ("num_windows", "2"),
        ("id2label", ["a"]),
        ("id2label", {"1": "a"}),
    ],
)
def test_a_value_of_another_type_is_told_with_file_and_key(copy, key, value):
    folder = copy(**{key: value})
    with pytest.raises(ConfigError, match=f"config.json.*{key}|model_type 'bert' is no detector"):
        read_folder(folder)


SMALL = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.sampled_from([0.0, -1.5, 0.5, 1e300, float("nan"), float("inf"), 10**40])
    | st.sampled_from(["", "9", "x", "d_fine", "hgnet_v2", "timm_backbone", "org/name"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["patch_size", "num_windows", "model_type", "backbone", "0"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=4,
)
KEYS = (
    *configuration.TYPES,
    "model_type",
    "backbone_config",
    "backbone",
    "use_timm_backbone",
    "decoder_layers",
    "d_model",
    "encoder_in_channels",
    "id2label",
    "num_labels",
    "dtype",
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(KEYS), SMALL, min_size=1, max_size=2))
def test_whatever_a_configuration_says_there_is_a_network_or_one_kind_of_error(made, changes):
    plain = json.loads((made["d_fine"] / "config.json").read_text()) | changes
    try:
        FAMILY.check_size({"name": "x", "config": plain}, (64, 64))  # of a weight file
        describe(plain, 2, "config.json")
        with torch.device("meta"):
            build(plain, 2, [0.0] * 3, [1.0] * 3)
    except ConfigError as error:
        assert str(error)


def test_a_configuration_nested_without_end_is_refused():
    deep = {"model_type": "d_fine"}
    for _ in range(100):
        deep = {"model_type": "d_fine", "backbone_config": deep}
    with pytest.raises(ConfigError, match="nested more than"):
        configuration.check(deep)


# Code and networks --------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    """Every connection is an error; returns those that were tried."""
    tried = []

    def refuse(self, address):
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: refuse(None, words[:2]))
    return tried


KERNEL = "kernels-community/flash-attn"
CODE = {
    "attn_implementation": KERNEL,
    "_attn_implementation": "org/kernel",
    "_attn_implementation_internal": "org/kernel@v1:layer",
    "experts_implementation": "org/kernel",
    "_experts_implementation_internal": "org/kernel",
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "org/kernel:RMSNorm"},
    "fusion_config": {"x": True},
    "custom_pipelines": {"x": {"impl": "x.Y"}},
    "transformers_weights": "../other.safetensors",
    "use_pretrained_backbone": True,
}


def test_settings_that_name_code_never_reach_the_library(copy, no_network, monkeypatch):
    from transformers.integrations import hub_kernels

    def loaded(*words, **more):
        raise AssertionError(f"code of a hub was asked for: {words}")

    for name in ("load_and_register_attn_kernel", "get_kernel", "lazy_load_kernel"):
        if hasattr(hub_kernels, name):
            monkeypatch.setattr(hub_kernels, name, loaded)
    plain = copy()
    config = json.loads((plain / "config.json").read_text())
    folder = copy(**CODE, backbone_config={**config["backbone_config"], **CODE})
    described = describe(json.loads((folder / "config.json").read_text()), 2)
    for part in (described, described.backbone_config):
        assert part._attn_implementation in (None, "eager", "sdpa")
        assert not {"use_kernels", "kernel_config", "fusion_config"} & set(vars(part))
    spec = spec_of(folder)
    FAMILY.start(FAMILY.build(spec, 2), spec, ("red", "blue"))
    assert not no_network


def test_the_librarys_own_ways_of_attention_stay(copy):
    config = json.loads((copy(attn_implementation="eager") / "config.json").read_text())
    assert describe(config, 2)._attn_implementation == "eager"


@pytest.mark.parametrize("at", ["top", "backbone"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"auto_map": {"AutoConfig": "x.Y"}}, "auto_map: asks to run code"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
    ],
)
def test_code_and_quantised_weights_are_refused_wherever_they_stand(copy, at, changes, said):
    config = json.loads((copy() / "config.json").read_text())
    if at == "backbone":
        changes = {"backbone_config": {**config["backbone_config"], **changes}}
    with pytest.raises(ConfigError, match=said):
        read_folder(copy(**changes))
    with pytest.raises(ConfigError, match=said):  # the copy of it in a weight file
        build({**config, **changes}, 2, [0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "org/name", "use_timm_backbone": False},
        {"backbone": "org/name", "use_timm_backbone": True},
        {"backbone": "hf-hub:org/name", "use_timm_backbone": True},
        {"backbone": "resnet50", "use_timm_backbone": False},
        {"backbone": ["resnet50"]},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_backbone_that_would_be_looked_up_is_refused(
    copy, no_network, monkeypatch, changes, nested
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the user's own wish
    if nested:
        changes = {"backbone_config": {"model_type": "timm_backbone", **changes}}
    else:
        changes = {"backbone_config": None, **changes}
    with pytest.raises(ConfigError, match="would be looked up on the hub"):
        read_folder(copy("detr", **changes))
    assert not no_network


def test_a_backbone_of_timm_by_name_asks_no_network(made, no_network, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    plain = json.loads((made["detr"] / "config.json").read_text())
    plain |= {"backbone": "resnet10t", "use_timm_backbone": True, "backbone_config": None}
    plain |= {"use_pretrained_backbone": True, "backbone_kwargs": {}}
    with torch.device("meta"):
        module = build(plain, 2, [0.0] * 3, [1.0] * 3)
    assert any("backbone" in name for name, _ in module.named_parameters()) and not no_network
