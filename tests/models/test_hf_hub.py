"""Models of a hub, brought once by the hub's own client, from a hub on loopback."""

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import fake_hub
import hf_networks
import pytest

from engine.cli import main
from engine.config import DetectionTrainConfig
from engine.errors import ConfigError, WorkspaceError
from engine.models.hub.files import (
    Reference,
    fetch,
    folder_of,
    go_offline,
    kept,
    reference_in,
    source_of,
    with_revision,
)
from engine.models.hub.licences import check_licence, is_free, licence_of_card, licence_of_parts
from engine.stages.start_weights import bring_published

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
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield hub


@pytest.fixture
def bring(tmp_path):
    def bring(reference, accepted=None):
        return fetch(reference, tmp_path / "start", tmp_path / "scratch", accepted)

    return bring


def test_the_newest_is_looked_up_once_and_kept_by_its_digest(hub, folders, bring, tmp_path):
    folder = bring(Reference(REPO, None))
    source = json.loads((folder / "source.json").read_text())
    assert (source["repo"], source["revision"], source["licence"]) == (REPO, NEWEST, "apache-2.0")
    assert re.fullmatch(r"tiny-detector-[0-9a-f]{12}", folder.name)
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


# --- identity and licence -------------------------------------------------------------------------


def test_of_two_revisions_with_the_same_bytes_each_has_its_own_licence(hub, folders, bring):
    hub.models[REPO] = dict.fromkeys((FIRST, NEWEST), folders[FIRST])
    hub.licences[NEWEST] = "cc-by-nc-4.0"
    free = bring(Reference(REPO, FIRST))
    with pytest.raises(ConfigError, match="accept_licence: cc-by-nc-4.0"):
        bring(Reference(REPO, NEWEST))
    other = bring(Reference(REPO, NEWEST), "cc-by-nc-4.0")
    said = [json.loads((each / "source.json").read_text()) for each in (free, other)]
    assert [each["revision"] for each in said] == [FIRST, NEWEST]
    assert [each["licence"] for each in said] == ["apache-2.0", "cc-by-nc-4.0"]
    assert said[0]["digest"] == said[1]["digest"]
    asked = len(hub.asked)
    assert kept(Reference(REPO, NEWEST), [other.parent]) == other and len(hub.asked) == asked


def test_no_file_is_brought_before_the_licence_is_accepted(hub, bring, tmp_path):
    hub.licences[REPO] = "other"
    with pytest.raises(ConfigError, match="states the licence 'other'"):
        bring(Reference(REPO, None))
    assert [path for _, path, _ in hub.asked] == [f"/api/models/{REPO}"]
    assert not (tmp_path / "start").exists()


@pytest.mark.parametrize(
    ("card", "licence", "free"),
    [
        ({"license": "mit"}, "mit", True),
        ({"license": "Apache-2.0"}, "Apache-2.0", True),
        ({"license": "other", "license_name": "mit"}, "other: mit", False),
        ({"license": "other"}, "other", False),
        ({"license": ["apache-2.0", "mit"]}, "apache-2.0, mit", True),
        ({"license": ["apache-2.0", "cc-by-nc-4.0"]}, "apache-2.0, cc-by-nc-4.0", False),
        ({}, "", False),
        ({"license": None}, "", False),
    ],
)
def test_licences_of_cards(card, licence, free):
    assert (licence_of_card(card), is_free(licence)) == (licence, free)
    source = {"repo": "a/b", "licence": licence}
    check_licence("x", source, licence.upper() or "unstated")
    if not free:
        with pytest.raises(ConfigError, match=f"accept_licence: {licence or 'unstated'}"):
            check_licence("x", source, None)


def test_a_part_has_its_licence_under_any_name():
    config = {"model_type": "deimv2", "backbone_config": {"model_type": "dinov3_vit"}}
    assert licence_of_parts(config) == "dinov3-license"
    assert licence_of_parts({"model_type": "d_fine", "backbone_config": {}}) == ""
    source = {"repo": "my/upload", "licence": "apache-2.0", "part": "dinov3-license"}
    with pytest.raises(ConfigError, match="backbone's kind are under the licence 'dinov3-license'"):
        check_licence("x", source, None)


def test_a_folder_says_its_licence_by_its_readme_and_nothing_by_a_source_of_its_own(
    folders, tmp_path, monkeypatch
):
    from engine.config import DetectionTrainConfig
    from engine.models.hf.family import HfFamily

    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders[FIRST], "mine")
    config = DetectionTrainConfig(model="hf:./mine", imgsz=64)
    plain = source_of(tmp_path / "mine")
    assert plain.keys() == {"digest"}
    forged = {"repo": "ustc-community/dfine-nano-coco", "revision": FIRST, "licence": "apache-2.0"}
    (tmp_path / "mine/source.json").write_text(
        json.dumps({**forged, "digest": "feed", "files": {"config.json": "x"}})
    )
    assert source_of(tmp_path / "mine") == plain
    HfFamily().spec("hf:./mine", config)
    (tmp_path / "mine/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A page\n")
    with pytest.raises(ConfigError, match=r"its README\.md states the licence 'cc-by-nc-4\.0'"):
        HfFamily().spec("hf:./mine", config)
    accepted = DetectionTrainConfig(model="hf:./mine", imgsz=64, accept_licence="cc-by-nc-4.0")
    assert HfFamily().spec("hf:./mine", accepted)["source"]["licence"] == "cc-by-nc-4.0"
    for text in ("---\n- [\n---\n", "---", "\x00", "---\n7\n---"):  # no head that can be read
        (tmp_path / "mine/README.md").write_text(text)
        assert source_of(tmp_path / "mine") == plain


def test_the_digest_is_of_every_file_that_holds_weights_and_none_lies_outside(folders, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(folders[FIRST], folder)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    before = source_of(folder)
    content = bytearray((folder / "part.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "part.safetensors").write_bytes(content)
    assert source_of(folder) != before
    for name in ("../outside.safetensors", "/etc/x.safetensors", "part.bin", 7, "a/b.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ConfigError, match="no .safetensors file beside it"):
            source_of(folder)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ConfigError, match="gone.safetensors is missing"):
        source_of(folder)
    index.write_text("[]")
    with pytest.raises(ConfigError, match="damaged"):
        source_of(folder)


@pytest.mark.parametrize("name", ["../../x.safetensors", "other.safetensors"])
def test_an_index_of_the_hub_names_only_files_that_were_brought(
    hub, bring, folders, tmp_path, name
):
    made = tmp_path / "sharded"
    shutil.copytree(folders[FIRST], made)
    index = {"weight_map": {"a": name}}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.models["people/sharded"] = {FIRST: made}
    with pytest.raises(ConfigError, match=re.escape(name)):
        bring(Reference("people/sharded", FIRST))
    assert not (tmp_path / "start").exists()


# --- names ----------------------------------------------------------------------------------------


@pytest.fixture
def project(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    monkeypatch.setattr("engine.models.hub.files._newest", {})
    return tmp_path


def test_the_newest_stays_the_newest_when_an_older_one_was_asked_for(hub, project):
    folder_of(f"hf:{REPO}@{FIRST}")
    assert with_revision(f"hf:{REPO}", project) == f"hf:{REPO}@{NEWEST}"
    asked = len(hub.asked)
    assert with_revision(f"hf:{REPO}", project) == f"hf:{REPO}@{NEWEST}"  # of this process
    assert len(hub.asked) == asked


def test_a_model_that_was_renamed_is_found_by_both_names(hub, project):
    hub.renamed["old/Detector"] = REPO
    folder = folder_of(f"hf:old/Detector@{FIRST}")
    asked = len(hub.asked)
    assert folder_of(f"hf:old/detector@{FIRST}") == folder == folder_of(f"hf:{REPO}@{FIRST}")
    assert with_revision(f"hf:old/Detector@{FIRST}", project) == f"hf:{REPO}@{FIRST}"
    assert len(hub.asked) == asked


def test_another_revision_than_asked_is_refused(hub, bring):
    hub.says[FIRST] = "d" * 40
    with pytest.raises(ConfigError, match="the hub answers with ddd"):
        bring(Reference(REPO, FIRST))


def test_a_damaged_source_is_said(hub, project):
    folder = folder_of(f"hf:{REPO}@{FIRST}")
    (folder / "source.json").write_text(json.dumps({"repo": REPO, "revision": FIRST}))
    with pytest.raises(WorkspaceError, match=r"source\.json: damaged"):
        folder_of(f"hf:{REPO}@{FIRST}")


# --- the way to the hub ---------------------------------------------------------------------------


def test_a_token_of_odd_characters_is_not_shown(hub, bring, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET\x0bSECRET")
    with pytest.raises((ConfigError, WorkspaceError)) as caught:
        bring(Reference(REPO, None))
    assert "SECRET" not in str(caught.value)


def test_a_users_own_offline_is_obeyed_and_ours_is_not_his(hub, bring, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WorkspaceError, match="HF_HUB_OFFLINE=1 forbids to ask the hub"):
        bring(Reference(REPO, FIRST))
    assert not hub.asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "true")
    with pytest.raises(WorkspaceError, match="TRANSFORMERS_OFFLINE=true forbids"):
        bring(Reference(REPO, FIRST))
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")
    monkeypatch.setenv("DETECTFLOW_HF_OFFLINE", "")  # so that it is gone after the test
    monkeypatch.setattr(os, "environ", dict(os.environ))
    go_offline()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert bring(Reference(REPO, FIRST)).is_dir()


def test_without_a_network_the_revisions_at_hand_are_named(hub, bring, monkeypatch):
    bring(Reference(REPO, FIRST))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorkspaceError, match=f"Here already: hf:{REPO}@{FIRST}"):
        bring(Reference(REPO, None))


@pytest.mark.parametrize("endpoint", ["nowhere", "ftp://user:secret@x", "http://[::1"])
def test_an_odd_endpoint_is_named(hub, bring, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(
        (ConfigError, WorkspaceError), match="HF_ENDPOINT=|cannot be reached"
    ) as why:
        bring(Reference(REPO, FIRST))
    assert "secret" not in str(why.value)


def test_several_at_once_bring_it_once(hub, bring):
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(bring, [Reference(REPO, FIRST)] * 3))
    assert len(found) == 1
    brought = [p for m, p, _ in hub.asked if m == "GET" and p.endswith("model.safetensors")]
    assert len(brought) == 1


# --- an accepted licence reaches every way in -----------------------------------------------------


def test_import_brings_weights_whose_licence_is_accepted_and_no_others(hub, project, capsys):
    hub.licences[REPO] = "cc-by-nc-4.0"
    words = ["import", f"hf:{REPO}", "imgsz=64"]
    assert main(words) != 0 and "accept_licence: cc-by-nc-4.0" in capsys.readouterr().err
    assert not (project / "models").exists()
    assert main([*words, "accept_licence=cc-by-nc-4.0"]) == 0
    assert "Licence cc-by-nc-4.0, recorded" in capsys.readouterr().out
    assert (project / "models/tiny-detector.pt").is_file()


def test_a_plain_dvc_repro_brings_weights_whose_licence_params_yaml_accepts(hub, project):
    hub.licences[REPO] = "cc-by-nc-4.0"
    settings = {"model": f"hf:{REPO}@{FIRST}", "imgsz": 64}
    with pytest.raises(ConfigError, match="accept_licence: cc-by-nc-4.0"):
        bring_published(DetectionTrainConfig(**settings), project)
    accepted = DetectionTrainConfig(**settings, accept_licence="cc-by-nc-4.0")
    folder = bring_published(accepted, project)["model"]
    assert source_of(folder)["licence"] == "cc-by-nc-4.0"
