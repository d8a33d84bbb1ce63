"""Published weights of torchvision: brought once from a server on loopback, classes by name."""

import functools
import hashlib
import http.server
import json
import threading

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from engine.config import DetectionTrainConfig
from engine.errors import ConfigError, WorkspaceError
from engine.models.hub.files import folder_of, kept, reference_in, source_of, with_revision
from engine.models.registry import family_of, hub_names

SSD, RETINA = "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """publish(name) -> (state, asked): torchvision's list names a file on loopback, of random
    weights and with its true digest in its name.
    """
    folder = tmp_path / "published"
    folder.mkdir()
    asked = []

    class Handler(Quiet):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    before = []

    def publish(name, wrong=False, harm=lambda state: None):
        torch.manual_seed(1)
        state = get_model(name, weights=None, weights_backbone=None, num_classes=91).state_dict()
        harm(state)
        torch.save(state, folder / "new.pth")
        digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
        file = (folder / "new.pth").rename(
            folder / f"{name}-{'0' * 8 if wrong else digest[:8]}.pth"
        )
        weights = get_model_weights(name).COCO_V1.value
        before.append((weights, weights.url))
        object.__setattr__(weights, "url", f"http://127.0.0.1:{server.server_port}/{file.name}")
        return state, asked

    yield publish
    for weights, url in before:
        object.__setattr__(weights, "url", url)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("name", "ahead"), [(SSD, 1), (RETINA, 0)])
def test_class_rows_come_by_name_and_the_file_once(published, name, ahead, tmp_path):
    state, asked = published(name)
    model = f"torchvision:{name}@DEFAULT"
    if name == RETINA:
        model = f"torchvision:{name}@COCO_V1"
    family = family_of(model)
    spec = family.spec(model, DetectionTrainConfig(model=model))
    assert spec["name"] == f"torchvision:{name}"
    origin = family.origin(spec)
    assert origin["name"] == f"torchvision:{name}@COCO_V1" and len(origin["digest"]) == 64
    assert (origin["licence"], origin["trained_on"]) == ("bsd-3-clause", "COCO 2017")
    classes = ("zebra", "gizmo", "person")
    module = family.build(spec, len(classes))
    moved = family.start(module, spec, classes)
    assert sorted(found for found, _, _ in moved.classes) == ["person", "zebra"]
    mine = module.state_dict()
    assert torch.equal(
        mine["backbone." + next(k for k in state if k.startswith("backbone."))[9:]],
        next(v for k, v in state.items() if k.startswith("backbone.")),
    )
    categories = get_model_weights(name).COCO_V1.meta["categories"]
    by_class = [key for key in mine if key in state and mine[key].shape != state[key].shape]
    assert by_class
    columns = len(classes) + ahead
    for key in by_class:
        of_91 = state[key].view(-1, 91, *state[key].shape[1:])
        ours = mine[key].view(-1, columns, *mine[key].shape[1:])
        for place, each in enumerate(classes):
            same = (
                torch.equal(ours[:, ahead + place], of_91[:, categories.index(each)])
                if (each in categories)
                else None
            )
            assert same is not False, (key, each)
        if ahead:
            assert torch.equal(ours[:, 0], of_91[:, 0]), "the background"
    assert len(asked) == 1, "one download for both"
    assert json.loads((folder_of(model) / "source.json").read_text())["repo"] == spec["name"]


def test_weights_that_are_no_numbers_are_refused_with_their_name(published, tmp_path):
    published(SSD, harm=lambda state: state["backbone.features.0.0.0.weight"].fill_(float("nan")))
    model = f"torchvision:{SSD}@DEFAULT"
    family = family_of(model)
    spec = family.spec(model, DetectionTrainConfig(model=model))
    with pytest.raises(ConfigError, match="tensor 'backbone.features.0.0.0.weight' holds NaN"):
        family.start(family.build(spec, 2), spec, ("a", "b"))


def test_the_name_that_is_written_down_says_which_weights(published, tmp_path):
    published(SSD)
    given = f"torchvision:{SSD}@DEFAULT"
    assert hub_names({"model": given}) == {"model": given}
    assert hub_names({"model": f"torchvision:{SSD}"}) == {}
    assert with_revision(given, tmp_path) == f"torchvision:{SSD}@COCO_V1"


def test_wrong_bytes_are_refused_and_not_kept(published, tmp_path):
    published(SSD, wrong=True)
    with pytest.raises(WorkspaceError, match="its name says 00000000"):
        folder_of(f"torchvision:{SSD}@COCO_V1")
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.part"))
    reference = reference_in(f"torchvision:{SSD}@COCO_V1")
    assert kept(reference, [tmp_path / ".cache/hub"]) is None


def test_changed_bytes_are_refused(published, tmp_path):
    published(SSD)
    folder = folder_of(f"torchvision:{SSD}@COCO_V1")
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(WorkspaceError, match="other bytes"):
        folder_of(f"torchvision:{SSD}@COCO_V1")
    assert source_of(folder)["repo"] == f"torchvision:{SSD}"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (f"torchvision:{SSD}@COCO_V2", "There are DEFAULT, COCO_V1"),
        (f"torchvision:{SSD}@COC_V1", "Did you mean 'COCO_V1'"),
        ("torchvision:ssdlite@COCO_V1", "torchvision:ssdlite"),
    ],
)
def test_unknown_weights_are_named(model, said):
    with pytest.raises(ConfigError, match=said):
        family_of(model).spec(model, DetectionTrainConfig(model=model))


def test_without_a_network_it_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(WorkspaceError, match=r"could not be downloaded.*put it here as .*\.pth"):
        folder_of(f"torchvision:{SSD}@COCO_V1")
