"""Models of a hub, brought once by the hub's own client, from a hub on loopback."""

import json

import fake_hub
import hf_networks
import pytest

from engine.errors import ConfigError, WorkspaceError
from engine.models.hub.files import Reference, fetch, kept, reference_in

FIRST, NEWEST = "a" * 40, "b" * 40
REPO = "people/tiny-detector"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for seed, revision in enumerate((FIRST, NEWEST)):
        found[revision] = tmp_path_factory.mktemp(f"revision{seed}")
        hf_networks.save(found[revision], seed=seed)
        (found[revision] / "pytorch_model.bin").write_bytes(b"never asked for")
    return found


@pytest.fixture
def hub(folders, monkeypatch):
    with fake_hub.running() as (hub, address):
        hub.models[REPO] = dict(folders)
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield hub


@pytest.fixture
def bring(tmp_path):
    def bring(reference):
        return fetch(reference, tmp_path / "start", tmp_path / "scratch")

    return bring


def test_the_newest_is_looked_up_once_and_kept_by_its_digest(hub, folders, bring, tmp_path):
    folder = bring(Reference(REPO, None))
    source = json.loads((folder / "source.json").read_text())
    assert (source["repo"], source["revision"], source["licence"]) == (REPO, NEWEST, "apache-2.0")
    assert folder.name == f"tiny-detector-{source['digest'][:12]}"
    assert sorted(source["files"]) == ["config.json", "model.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == [
        *sorted(source["files"]),
        "source.json",
    ]
    wanted = folders[NEWEST] / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == wanted.read_bytes()
    assert not any(path.endswith(".bin") for _, path, _ in hub.asked)
    asked = len(hub.asked)
    assert kept(Reference(REPO, NEWEST), [tmp_path / "start"]) == folder
    assert kept(Reference(REPO, FIRST), [tmp_path / "start"]) is None
    assert len(hub.asked) == asked
    assert not any((tmp_path / "scratch").iterdir())


def test_a_revision_means_its_own_files(hub, folders, bring):
    folder = bring(Reference(REPO, FIRST))
    wanted = folders[FIRST] / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == wanted.read_bytes()
    assert bring(Reference(REPO, None)) != folder
    assert bring(Reference(REPO, FIRST)) == folder


def test_a_download_that_is_cut_off_goes_on(hub, bring):
    hub.cut = {"model.safetensors"}
    try:
        folder = bring(Reference(REPO, FIRST))
    except WorkspaceError:
        folder = bring(Reference(REPO, FIRST))
    assert (folder / "model.safetensors").stat().st_size > 1000
    asked = [path for method, path, _ in hub.asked if method == "GET"]
    assert sum(path.endswith("model.safetensors") for path in asked) == 2


def test_other_bytes_than_the_hub_says_are_refused(hub, bring, tmp_path):
    hub.wrong = {"model.safetensors"}
    with pytest.raises(ConfigError, match="the hub says"):
        bring(Reference(REPO, FIRST))
    assert not (tmp_path / "start").exists() or not any((tmp_path / "start").iterdir())
    hub.wrong = set()
    assert bring(Reference(REPO, FIRST)).is_dir()


def test_files_that_changed_since_are_not_used(hub, bring, tmp_path):
    folder = bring(Reference(REPO, FIRST))
    (folder / "config.json").write_text("{}")
    with pytest.raises(WorkspaceError, match="other bytes"):
        kept(Reference(REPO, FIRST), [tmp_path / "start"])
    (folder / "config.json").unlink()
    with pytest.raises(WorkspaceError, match="missing"):
        kept(Reference(REPO, FIRST), [tmp_path / "start"])


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (Reference("people/no-such", None), "no such model"),
        (Reference(REPO, "c" * 40), "no such revision"),
        (Reference("people/pickled", None), "pytorch_model.bin can run code"),
        (Reference("people/empty", None), "no config.json"),
    ],
)
def test_what_is_not_there_or_no_use_is_said(hub, bring, folders, tmp_path, reference, said):
    for name, files in (
        ("pickled", ["config.json", "pytorch_model.bin"]),
        ("empty", ["README.md"]),
    ):
        made = tmp_path / name
        made.mkdir()
        for file in files:
            (made / file).write_text("{}")
        hub.models[f"people/{name}"] = {FIRST: made}
    with pytest.raises(ConfigError, match=said):
        bring(reference)


def test_a_token_is_sent_and_not_shown(hub, bring, monkeypatch, capfd):
    hub.token = "hf_secretsecretsecret"
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        bring(Reference(REPO, None))
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(ConfigError) as caught:
        bring(Reference(REPO, None))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    folder = bring(Reference(REPO, None))
    said = "".join(capfd.readouterr()) + str(caught.value) + (folder / "source.json").read_text()
    assert "hf_" not in said.replace("`hf download", "")


def test_without_a_network_it_says_how_else(bring, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorkspaceError, match=f"hf download {REPO} --revision {FIRST}"):
        bring(Reference(REPO, FIRST))


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people" / "mine").mkdir(parents=True)
    assert reference_in("hf:people/mine") is None  # a folder that is there
    assert reference_in("hf:./mine") is None and reference_in("hf:/a/b") is None
    assert reference_in(f"hf:{REPO}") == Reference(REPO, None)
    assert reference_in(f"hf:{REPO}@{FIRST}") == Reference(REPO, FIRST)
    for revision in ("main", "v1.0", "abc123"):
        with pytest.raises(ConfigError, match="40 hex digits"):
            reference_in(f"hf:{REPO}@{revision}")


def test_a_name_of_the_hub_is_a_network_and_its_start(hub, tmp_path, monkeypatch):
    from engine.config import DetectionTrainConfig
    from engine.models.hf.family import HfFamily

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    family, model = HfFamily(), f"hf:{REPO}@{FIRST}"
    spec = family.spec(model, DetectionTrainConfig(model=model, imgsz=64))
    assert spec["name"] == model and spec["source"]["revision"] == FIRST
    assert spec["source"]["licence"] == "apache-2.0"
    asked = len(hub.asked)
    moved = family.start(family.build(spec, 2), spec, ("red", "blue"))
    assert [name for name, _, _ in moved.classes] == ["red", "blue"] and len(hub.asked) == asked
