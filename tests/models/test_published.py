"""Weights under the family's published layer names: the same network as ours, and files that are
something else, or an attack.
"""

import os
import pickle
import shutil
import sys
import time
import types
import zipfile

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from engine.errors import CheckpointError
from engine.models.yolov8 import build_model
from engine.models.yolov8.published import BRANCHES, PARTS, read_published

NAMES = ("RBC", "WBC", "Platelets")


def made(scale="yolov8n", classes=3):
    torch.manual_seed(0)
    model = build_model(scale, classes)
    with torch.no_grad():  # statistics and outputs as of a trained one
        for name, value in model.state_dict().items():
            if "running" in name or ".bn." in name and value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    return model.eval()


def published(model):
    """Our state dict under the published names."""
    ours = {part: f"model.{layer}" for layer, part in PARTS.items()}
    ours |= {part: f"model.22.{branch}" for branch, part in BRANCHES.items()}
    found = {}
    for name, value in model.state_dict().items():
        part = max((part for part in ours if name.startswith(f"{part}.")), key=len)
        found[ours[part] + name.removeprefix(part)] = value
    found["model.22.dfl.conv.weight"] = torch.arange(16.0).view(1, 16, 1, 1)
    return found


class Plain:
    """The network as published, in plain functions of a state dict with the published names."""

    def __init__(self, state):
        self.s = state

    def conv(self, name, x, stride=1):
        weight = self.s[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var = self.s[f"{name}.bn.running_mean"], self.s[f"{name}.bn.running_var"]
        x = F.batch_norm(
            x, mean, var, self.s[f"{name}.bn.weight"], self.s[f"{name}.bn.bias"], eps=1e-3
        )
        return F.silu(x)

    def c2f(self, name, x, add):
        parts = list(self.conv(f"{name}.cv1", x).chunk(2, 1))
        i = 0
        while f"{name}.m.{i}.cv1.conv.weight" in self.s:
            y = self.conv(f"{name}.m.{i}.cv2", self.conv(f"{name}.m.{i}.cv1", parts[-1]))
            parts.append(parts[-1] + y if add else y)
            i += 1
        return self.conv(f"{name}.cv2", torch.cat(parts, 1))

    def sppf(self, name, x):
        parts = [self.conv(f"{name}.cv1", x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.conv(f"{name}.cv2", torch.cat(parts, 1))

    def __call__(self, x):
        x = self.conv("model.1", self.conv("model.0", x, 2), 2)
        x = self.conv("model.3", self.c2f("model.2", x, True), 2)
        p3 = self.c2f("model.4", x, True)
        p4 = self.c2f("model.6", self.conv("model.5", p3, 2), True)
        p5 = self.sppf("model.9", self.c2f("model.8", self.conv("model.7", p4, 2), True))
        up = torch.nn.Upsample(scale_factor=2, mode="nearest")
        t4 = self.c2f("model.12", torch.cat((up(p5), p4), 1), False)
        o3 = self.c2f("model.15", torch.cat((up(t4), p3), 1), False)
        o4 = self.c2f("model.18", torch.cat((self.conv("model.16", o3, 2), t4), 1), False)
        o5 = self.c2f("model.21", torch.cat((self.conv("model.19", o4, 2), p5), 1), False)
        rows = []
        for i, map_ in enumerate((o3, o4, o5)):
            out = []
            for branch in ("cv2", "cv3"):
                y = self.conv(
                    f"model.22.{branch}.{i}.1", self.conv(f"model.22.{branch}.{i}.0", map_)
                )
                last = f"model.22.{branch}.{i}.2"
                out.append(F.conv2d(y, self.s[f"{last}.weight"], self.s[f"{last}.bias"]))
            rows.append(torch.cat(out, 1).flatten(2).transpose(1, 2))
        return torch.cat(rows, 1)


@pytest.mark.parametrize("scale", ["yolov8n", "yolov8m"])
def test_outputs_are_those_of_the_published_network(scale, tmp_path):
    model = made(scale)
    state = published(model)
    torch.save(state, tmp_path / "weights.pt")
    found = read_published(tmp_path / "weights.pt")
    assert found.scale == scale and found.names == ()
    mine = build_model(found.scale, 3).eval()
    mine.load_state_dict(found.state)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        preds, wanted = mine(images), Plain(state)(images)
    torch.testing.assert_close(
        torch.cat((preds.distances, preds.scores), -1), wanted, rtol=1e-4, atol=1e-4
    )


@pytest.fixture
def other_tool(monkeypatch):
    """A package that is there when the file is written and gone when it is read, as it is on a
    machine without it.
    """
    package = types.ModuleType("othertool")
    tasks = types.ModuleType("othertool.tasks")
    package.tasks = tasks
    for name in ("Detector", "Layer", "Settings"):
        kind = type(name, (torch.nn.Module,) if name != "Settings" else (dict,), {})
        kind.__module__ = "othertool.tasks"
        setattr(tasks, name, kind)
    sys.modules.update({"othertool": package, "othertool.tasks": tasks})
    yield tasks
    for name in ("othertool", "othertool.tasks"):
        sys.modules.pop(name, None)


def whole(tasks, state):
    """A network stored whole, of classes of that package."""
    top = tasks.Detector()
    for name, value in state.items():
        *path, last = name.split(".")
        module = top
        for part in path:
            if part not in module._modules:
                module.add_module(part, tasks.Layer())
            module = module._modules[part]
        if value.is_floating_point() and "running" not in name:
            module.register_parameter(last, torch.nn.Parameter(value.half()))
        else:
            module.register_buffer(last, value.half() if value.is_floating_point() else value)
    top.names = dict(enumerate(NAMES))
    return top


def test_a_network_stored_whole_is_read_without_its_code(other_tool, tmp_path):
    model = made()
    content = {
        "epoch": 3,
        "model": whole(other_tool, published(model)),
        "ema": None,
        "optimizer": None,
        "train_args": {"imgsz": 320, "data": "x.yaml"},
    }
    torch.save(content, tmp_path / "best.pt")
    del sys.modules["othertool"], sys.modules["othertool.tasks"]
    found = read_published(tmp_path / "best.pt")
    assert (found.scale, found.names, found.imgsz) == ("yolov8n", NAMES, 320)
    assert "othertool" not in sys.modules
    wanted = model.state_dict()
    assert found.state.keys() == wanted.keys()
    for name, value in found.state.items():
        torch.testing.assert_close(value.float(), wanted[name].float(), rtol=1e-3, atol=1e-3)


def test_averaged_weights_come_first(other_tool, tmp_path):
    state = published(made())
    averaged = {name: value + 1 if "bn.bias" in name else value for name, value in state.items()}
    content = {"model": whole(other_tool, state), "ema": whole(other_tool, averaged)}
    torch.save(content, tmp_path / "last.pt")
    found = read_published(tmp_path / "last.pt").state
    bias = "backbone.stem.bn.bias"
    torch.testing.assert_close(found[bias], averaged["model.0.bn.bias"], rtol=1e-3, atol=1e-2)


class Evil:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").mkdir()
    state = published(made())
    torch.save({"model": state, "extra": Evil(shutil.rmtree, "precious")}, "inert.pt")
    assert read_published(tmp_path / "inert.pt").scale == "yolov8n"
    command = Evil(os.system, "touch EVIL")
    torch.save({"model": state, "extra": command}, "evil.pt")
    with open("bare.pt", "wb") as stream:
        pickle.dump(command, stream)
    with zipfile.ZipFile("zip.pt", "w") as stream:
        stream.writestr("archive/data.pkl", pickle.dumps(command))
        stream.writestr("archive/version", "3")
    for name in ("evil.pt", "bare.pt", "zip.pt"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_published(tmp_path / name)
    assert (tmp_path / "precious").is_dir() and not (tmp_path / "EVIL").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda s: s.update({"model.22.cv4.0.0.conv.weight": torch.zeros(1)}), "has no place"),
        (lambda s: s.update({"model.23.cv2.0.2.weight": torch.zeros(1)}), "has no place"),
        (lambda s: s.pop("model.9.cv1.conv.weight"), r"nearest to yolov8n.*1 tensors.*missing"),
        (lambda s: s.update({"model.0.conv.weight": torch.zeros(16, 3, 6, 6)}), "not a network"),
        (
            lambda s: s.update({"model.22.dfl.conv.weight": torch.zeros(1, 16, 1, 1)}),
            "another head",
        ),
        (lambda s: s.pop("model.22.cv3.0.2.bias"), "not a detector"),
        (lambda s: s.clear(), "holds no weights"),
    ],
)
def test_what_is_no_such_network_is_named(tmp_path, harm, said):
    state = published(made())
    harm(state)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=said):
        read_published(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"x" * 1000])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_nothing_of_the_kind(tmp_path, content, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read|holds no weights"):
        read_published(file)
    with pytest.raises(CheckpointError, match="no such file"):
        read_published(tmp_path / "none.pt")


def test_safetensors(tmp_path):
    state = {name: value.contiguous() for name, value in published(made()).items()}
    save_file(state, tmp_path / "weights.safetensors")
    assert read_published(tmp_path / "weights.safetensors").scale == "yolov8n"


# Files made to harm ------------------------------------------------------------------------------


def saved(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


FIRST = "model.0.conv.weight"
WIDE = 5_000_000_000  # numbers that stand in one


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (lambda t: t.to(torch.complex64), "is of type complex64"),
        (lambda t: t.to(torch.int64), "is of type int64"),
        (lambda t: t > 0, "is of type bool"),
        (lambda t: t.to_sparse(), "is stored as torch.sparse_coo"),
        (lambda t: t.to("meta"), "on device 'meta'"),
        (lambda t: torch.zeros(1, dtype=torch.half).expand(WIDE), "fewer numbers than that"),
        (lambda t: torch.full_like(t, float("nan")), "'backbone.stem.conv.weight' holds NaN"),
        (lambda t: torch.full_like(t, 1e300, dtype=torch.float64), "holds infinite values"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused_before_they_are_converted(
    tmp_path, tensor, said
):
    state = published(made())
    state[FIRST] = tensor(state[FIRST])
    with pytest.raises(CheckpointError, match=said):
        read_published(saved(state, tmp_path))


@pytest.mark.parametrize("name", ["model.22.dfl.conv.weight", "model.22.cv3.0.2.bias"])
def test_a_tensor_wider_than_its_file_is_refused(tmp_path, name):
    state = published(made())
    state[name] = torch.zeros(1, dtype=torch.half).expand(WIDE)
    with pytest.raises(CheckpointError, match="fewer numbers than that"):
        read_published(saved(state, tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": torch.zeros(3)}, "holds no weights"),
        ({"ema": torch.zeros(3), "model": {}}, "holds no weights"),
        (torch.zeros(3), "holds no weights"),
        ([1, 2], "holds no weights"),
        ({"1" * 5000 + ".conv.weight": torch.zeros(1)}, "has no place"),
        ({"\u0661.conv.weight": torch.zeros(1)}, "has no place"),  # a digit, and no number here
    ],
)
def test_content_of_another_form_is_named(tmp_path, content, said):
    with pytest.raises(CheckpointError, match=said):
        read_published(saved(content, tmp_path))


@pytest.mark.parametrize("kind", ["_modules", "_parameters", "_buffers"])
def test_parts_of_a_network_that_are_no_names_are_refused(other_tool, tmp_path, kind):
    top = other_tool.Detector()
    top.__dict__[kind] = [1, 2]
    file = tmp_path / "weights.pt"
    torch.save({"model": top}, file)
    with pytest.raises(CheckpointError, match=f"{kind} is of type list"):
        read_published(file)


def test_modules_in_several_places_do_not_grow_without_end(other_tool, tmp_path):
    module = other_tool.Layer()
    for _ in range(22):  # four million places
        outer = other_tool.Layer()
        outer._modules.update(a=module, b=module)
        module = outer
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match="more than 10000 modules"):
        read_published(saved({"model": module}, tmp_path))
    assert time.monotonic() - begun < 20


def test_an_archive_that_says_more_than_the_file_has_is_not_opened(tmp_path, monkeypatch):
    plain = saved(published(made()) | {FIRST: torch.zeros(2_000_000)}, tmp_path)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member), zipfile.ZIP_DEFLATED)

    def opened(*words, **more):
        raise AssertionError("the file was read")

    monkeypatch.setattr(torch, "load", opened)
    with pytest.raises(CheckpointError, match=r"says to hold \d+ MB, and the file has"):
        read_published(packed)


@pytest.mark.parametrize("imgsz", [-5, 0, 10**30, True, [640, 640], "640"])
def test_a_size_that_is_none_counts_as_not_said(tmp_path, imgsz):
    content = {"model": published(made()), "train_args": {"imgsz": imgsz}}
    assert read_published(saved(content, tmp_path)).imgsz is None


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "", "x" * 5000, 3])
def test_class_names_that_cannot_be_shown_count_as_not_said(tmp_path, name):
    content = {"model": published(made()), "names": {0: "a", 1: name, 2: "c"}}
    assert read_published(saved(content, tmp_path)).names == ()


def test_no_message_says_how_to_run_what_a_file_holds(tmp_path):
    file = saved({"model": Evil(os.system, "true")}, tmp_path)
    with pytest.raises(CheckpointError, match="posix.system") as caught:
        read_published(file)
    assert "weights_only" not in str(caught.value) and "http" not in str(caught.value)
