"""What lies beside the dataset that is used makes nothing run again; the used one does. With DVC."""

import sys
from pathlib import Path

import pytest
import yaml
from workspaces import shell

from engine.versioning.dvc_repo import ALWAYS, DvcStages

sys.path.append(str(Path(__file__).parents[1] / "datasets"))
from dataset_builders import make_coco, make_voc, put, voc_xml

pytestmark = pytest.mark.system

SOURCES = {  # what params.yaml and the description say
    "a folder": ({"source": "data/raw/used"}, None),
    "a description": ({"source": "data/used.yaml"}, "name: used\npath: raw/used\n"),
    "a path": (
        {"source": "data/used.yaml", "path": "data/raw/used"},
        "name: used\npath: elsewhere\n",
    ),
}


def dvc(root, *words):
    done = shell(root, "dvc", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def reasons(root):
    """Why prepare has to run, for `dvc repro` after its stage `code`, and for the flow."""
    dvc(root, "repro", "-q", "code")
    return [reason for reason in DvcStages(root).status("prepare") if reason != ALWAYS]


@pytest.mark.parametrize("kind", SOURCES)
def test_another_dataset_in_data_raw_makes_nothing_stale(project, kind):
    shell(project, "git", "init", "-q")
    settings, description = SOURCES[kind]
    raw = project / "data" / "raw"
    make_voc(raw / "used")
    put(raw / "splits.jsonl", "")
    if description:
        put(project / "data/used.yaml", description)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"] |= settings
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert "Running stage 'prepare'" in dvc(project, "repro", "prepare")
    assert reasons(project) == []

    make_coco(raw / "other")
    make_voc(raw / "used-2")
    put(raw / "notes.txt", "hello")
    dvc(project, "add", "-q", "data/raw/other")  # changes data/raw/.gitignore too
    assert reasons(project) == []
    assert "Running stage 'prepare'" not in dvc(project, "repro", "prepare")

    put(raw / "used/Annotations/a.xml", voc_xml("a", [("dog", (4, 2, 20, 30))]))
    assert reasons(project) != []
    assert "Running stage 'prepare'" in dvc(project, "repro", "prepare")
    assert reasons(project) == []
    for file in (raw / "used").rglob("*"):
        file.touch()
    assert reasons(project) == []
