"""`detectflow trace` in a project with a past: two trainings by `dvc repro`, the second on fewer
images and started from the weights of the first, each committed. Then one witness after the other
is taken away.

The tests of this file share one workspace and run in their order.
"""

import json
import shutil

import pytest
from workspaces import copy_project, shell

from engine.files import sha256_file
from engine.lineage.graph import trace
from engine.lineage.render import trace_values
from engine.project.environment import prepare_environment

TINY = {
    "seed: 0                          # of the split, and of generated images": "seed: 0\n  "
    "options: {train: 6, val: 2, test: 2, size: 64, max_px: 32}",
    "imgsz: 160": "imgsz: 64",
    "epochs: 30": "epochs: 1\n  plots: false\n ",
    "split: test": "split: test\n  plots: false",
    "[onnx]": "[onnx, safetensors]",
}

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = copy_project(tmp_path_factory.mktemp("trace") / "project").resolve()
    edit(root, TINY)
    git(root, "init", "-q")
    commit(root, "the start")
    make(root, "first")
    first = json.loads((root / "reports/train/origin.json").read_text())
    (root / "models/start").mkdir(exist_ok=True)
    shutil.copy(root / "weights/best.pt", root / "models/start/first.pt")
    (root / "old").mkdir()
    kept = {
        "weights/best.pt": "moved.pt",
        "export/best.onnx": "moved.onnx",
        "export/best.safetensors": "moved.safetensors",
    }
    for name, copy in kept.items():
        shutil.copy(root / name, root / "old" / copy)
    images = sorted((root / "data/prepared/images/train").iterdir())
    edit(root, {"train: 6": "train: 4", "model: yolov8n": "model: models/start/first.pt"})
    hashes = {sha256_file(image): image for image in images}
    for sha256, image in hashes.items():
        shutil.copy(image, root / "old" / f"{sha256[:8]}.png")
    make(root, "second", "train")
    second = json.loads((root / "reports/train/origin.json").read_text())
    now = {sha256_file(p) for p in (root / "data/prepared/images/train").iterdir()}
    gone = next(sha256 for sha256 in hashes if sha256 not in now)
    return root, first, second, gone


def edit(root, changes):
    text = (root / "params.yaml").read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after, 1)
    (root / "params.yaml").write_text(text)


def git(root, *words):
    done = shell(root, "git", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(root, message):
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)


def make(root, message, *stage):
    done = shell(root, "dvc", "repro", *stage)
    assert done.returncode == 0, done.stderr
    commit(root, message)


@pytest.fixture(autouse=True)
def environment(project, own_environment, monkeypatch):
    monkeypatch.chdir(project[0])
    prepare_environment(project[0])


def ask(root, thing):
    return json.loads(json.dumps(trace_values(trace(str(thing), root))))


def nodes(tree):
    """{(relation, kind): [node, ...]} of a whole tree."""
    found = {}
    for node in tree:
        found.setdefault((node["relation"], node["kind"]), []).append(node)
        for key, below in nodes(node.get("children", [])).items():
            found.setdefault(key, []).extend(below)
    return found


def facts(node):
    return {fact["name"]: fact["value"] for fact in node["facts"]}


def sources(node):
    return {source for fact in node["facts"] for source in fact["known_from"]}


def test_the_weights_of_today_lead_back_over_their_start_to_the_first_data(project):
    root, first, second, _ = project
    found = ask(root, "weights/best.pt")
    assert (
        found["subject"]["key"] == second["weights_sha256"]
        and found["notes"] == []
        and found["not_asked"] == []
    )
    back = nodes(found["made_from"])
    assert {node["key"] for node in back["trained on", "data"]} == {
        first["data_digest"],
        second["data_digest"],
    }
    (start,) = back["started from", "weights"]
    assert start["key"] == first["weights_sha256"]
    assert facts(start)["recorded by commit"].endswith(" first")
    assert facts(found["subject"])["settings"]["train.epochs"] == 1
    runs = {facts(node)["code"].split()[1] for node in back["described by", "run"]}
    assert runs == {git(root, "rev-parse", "HEAD~2"), git(root, "rev-parse", "HEAD~1")}


@pytest.mark.parametrize(
    "name",
    [
        "old/moved.pt",
        "old/moved.onnx",
        "old/moved.safetensors",
        "digits@challenger",
        "digits/1",
    ],
)
def test_a_model_is_known_by_its_content_and_a_version_by_its_tags(project, name):
    root, first, second, _ = project
    found = ask(root, name)
    both = nodes(found["made_from"]) | nodes(found["led_to"])
    assert {node["key"] for node in both["trained on", "data"]} == {first["data_digest"]}
    assert "described by", "run" in both
    if name.endswith(".pt"):
        assert {facts(node)["format"] for node in both["exported as", "file"]} == {
            "onnx",
            "safetensors",
        }
        assert [node["key"] for node in both["start of", "weights"]] == [second["weights_sha256"]]
        assert [facts(node)["aliases"] for node in both["registered as", "version"]] == [
            "challenger"
        ]


def test_a_run_by_its_id_and_data_by_the_beginning_of_their_digest(project):
    root, first, second, _ = project
    runs = nodes(ask(root, "old/moved.pt")["made_from"])["described by", "run"]
    found = ask(root, runs[0]["key"])
    assert [(node["kind"], node["key"]) for node in found["made_from"]] == [
        ("data", first["data_digest"])
    ]
    assert [(node["kind"], node["key"]) for node in found["led_to"]] == [
        ("weights", first["weights_sha256"])
    ]
    data = ask(root, second["data_digest"][:10])
    assert [node["key"] for node in data["led_to"]] == [second["weights_sha256"]]


def test_an_image_that_is_in_no_data_of_today_was_seen_by_both_models(project):
    root, first, second, gone = project
    found = ask(root, f"old/{gone[:8]}.png")
    assert [node["key"] for node in found["led_to"]] == [first["data_digest"]]
    assert found["led_to"][0]["relation"].startswith("in split train as ")
    (saw,) = found["summary"]
    assert saw.startswith("learned from it: ") and all(
        each["weights_sha256"][:12] in saw for each in (first, second)
    )
    held = next((root / "data/prepared/images/test").iterdir())
    found = ask(root, held.relative_to(root))
    assert found["summary"][0] == "no model that is known here learned from it"
    assert all(each["weights_sha256"][:12] in found["summary"][1] for each in (first, second))


def test_the_command_prints_the_same_as_text_and_as_json(project):
    root, first, _, _ = project
    done = shell(root, "detectflow", "trace", "old/moved.onnx", "format=json")
    assert done.returncode == 0 and json.loads(done.stdout) == ask(root, "old/moved.onnx"), (
        done.stderr
    )
    done = shell(root, "detectflow", "trace", "old/moved.onnx")
    assert done.returncode == 0 and done.stderr == ""
    assert (
        f"└─ exported from weights {first['weights_sha256']}" in done.stdout
        and "dvc.lock in git" in done.stdout
    )


def test_what_a_file_says_of_itself_in_an_empty_folder(project, tmp_path):
    root, first, _, _ = project
    for name in ("moved.pt", "moved.onnx", "moved.safetensors"):
        found = ask(None, shutil.copy(root / "old" / name, tmp_path))
        reported = nodes(found["made_from"])
        assert [node["key"] for node in reported["trained on", "data"]] == [first["data_digest"]]
        weights = (
            found["subject"] if name.endswith(".pt") else reported["exported from", "weights"][0]
        )
        assert weights["key"] == first["weights_sha256"]
        assert facts(weights)["settings"]["train.imgsz"] == 64 and facts(weights)["class_hash"]
        assert found["not_asked"] == [
            "no project here: only what the file says of itself is known. Run this in the "
            "project's folder"
        ]


def test_without_dvcs_cache_the_hashes_in_git_meet_those_in_mlflow(project):
    """As in a fresh clone before `dvc pull`, with the team's MLflow server."""
    root, first, _, _ = project
    cache = root / ".dvc" / "cache"
    cache.rename(root / "away")
    try:
        found = ask(root, first["weights_sha256"])
    finally:
        (root / "away").rename(cache)
    assert facts(found["subject"])["recorded by commit"].endswith(" first")
    assert any("are not in the cache" in sentence for sentence in found["not_asked"])


def test_without_a_registry_and_git_the_files_still_know(project):
    root, first, second, gone = project
    for file in root.glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(root / ".git")
    found = ask(root, "weights/best.pt")
    back = nodes(found["made_from"])
    assert {node["key"] for node in back["trained on", "data"]} == {
        first["data_digest"],
        second["data_digest"],
    }
    assert [sentence.split(":")[0] for sentence in found["not_asked"]] == ["git", "MLflow"]
    assert facts(back["trained on", "data"][0])["params.yaml"]["data.source"] == "data/digits.yaml"
    # The run cache remembers the first training, which no commit names any more.
    (saw,) = ask(root, f"old/{gone[:8]}.png")["summary"]
    assert all(each["weights_sha256"][:12] in saw for each in (first, second))
    assert (
        nodes(ask(root, "old/moved.onnx")["led_to"])["registered as", "version"][0]["key"]
        == "digits/1"
    )
    refused = shell(root, "detectflow", "trace", "digits@champion")
    assert refused.returncode == 1 and "MLflow: there is no database" in refused.stderr
    assert not (root / "mlflow.db").exists()
