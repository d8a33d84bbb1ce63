"""A detector of a hub through the whole pipeline, on one machine with that hub and then without a
network; the hub is on loopback, its client and everything else are real.
"""

import base64
import json
import shutil
import subprocess
import sys

import fake_hub
import hf_networks
import pytest
import yaml
from test_networks import ANSWER
from test_pipeline import STAGES, TINY
from workspaces import clean_environment, copy_project, shell

pytestmark = pytest.mark.system

REPO, REVISION = "people/tiny-detector", "d" * 40
NOWHERE = "http://127.0.0.1:9"  # nobody answers there


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    hf_networks.save(folder, "d_fine", ("3", "cat"))
    with fake_hub.running() as (hub, address):
        hub.models[REPO] = {REVISION: folder}
        yield hub, address


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = copy_project(tmp_path_factory.mktemp("hub") / "project").resolve()
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q", "--force"]):
        assert shell(root, *words).returncode == 0
    commit(root)
    return root


def commit(root):
    for words in (["add", "-A"], ["commit", "-qm", "state"]):
        assert shell(root, "git", *words).returncode == 0


def detectflow(root, *words, endpoint=NOWHERE):
    return shell(
        root,
        *(sys.executable, "-m", "engine", *words),
        PREFECT_SERVER_API_PORT="1",
        HF_ENDPOINT=endpoint,
        HF_HUB_DISABLE_XET="1",
    )


def run(root, endpoint=NOWHERE, **changes):
    settings = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    words = [word for item in settings.items() for word in ("-S", "{}={}".format(*item))]
    return detectflow(root, "run", *words, endpoint=endpoint)


def train_section(root):
    return yaml.safe_load((root / "params.yaml").read_text())["train"]


def test_all_five_stages_from_a_name(workspace, hub):
    hub, address = hub
    done = run(workspace, address, train__model=f"hf:{REPO}")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert {line[1] for line in lines if line[0] in STAGES[1:]} == {"ran"}
    assert train_section(workspace)["model"] == f"hf:{REPO}@{REVISION}"
    said = done.stdout + done.stderr
    assert "licence apache-2.0" in said and "classes by name: 3" in said
    [folder] = (workspace / "models/start").glob("*/")
    assert folder.with_name(f"{folder.name}.dvc").is_file()
    assert json.loads((folder / "source.json").read_text())["revision"] == REVISION
    commit(workspace)


def test_where_it_comes_from_is_recorded(workspace, hub):
    origin = json.loads((workspace / "reports/train/origin.json").read_text())["origins"][0]
    assert (origin["name"], origin["licence"]) == (f"hf:{REPO}@{REVISION}", "apache-2.0")
    traced = detectflow(workspace, "trace", "export/best.onnx")
    assert traced.returncode == 0 and f"hf:{REPO}@{REVISION}, licence apache-2.0" in traced.stdout
    report = json.loads((workspace / "reports/registration.json").read_text())
    asked = f"""
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
version = mlflow.MlflowClient().get_model_version("digits", "{report["version"]}")
print(version.tags["published_weights"])
"""
    tags = shell(workspace, sys.executable, "-c", asked)
    assert f"hf:{REPO}@{REVISION}, licence apache-2.0" in tags.stdout, tags.stderr
    page = detectflow(workspace, "report", "out=page")
    assert page.returncode == 0, page.stderr
    for file in ("index.html", "model_card.md"):
        assert REVISION in (workspace / "page" / file).read_text(), file


def test_the_registered_model_answers_without_torch(workspace):
    report = json.loads((workspace / "reports/registration.json").read_text())
    image = next((workspace / "data/prepared/images/test").iterdir())
    code = "import sys; sys.modules['torch'] = None\n" + ANSWER.replace(
        "/1", f"/{report['version']}"
    )
    served = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=workspace,
        env=clean_environment(),
        input=base64.b64encode(image.read_bytes()).decode(),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert served.returncode == 0, served.stderr
    (found,) = json.loads(served.stdout.splitlines()[-1])
    assert isinstance(found, list)


def test_from_then_on_no_network_is_needed(workspace, hub):
    asked = len(hub[0].asked)
    again = run(workspace, train__model=f"hf:{REPO}@{REVISION}")
    assert again.returncode == 0 and "ran" not in again.stdout.split(), again.stdout
    done = run(workspace, train__model=f"hf:{REPO}@{REVISION}", train__seed="5")
    assert done.returncode == 0, done.stderr
    assert len(hub[0].asked) == asked
    shutil.rmtree(workspace / ".cache/hub")
    [folder] = (workspace / "models/start").glob("*/")
    shutil.rmtree(folder)
    back = shell(workspace, sys.executable, "-m", "dvc", "checkout", "-q", f"{folder}.dvc")
    assert back.returncode == 0 and (folder / "source.json").is_file(), back.stderr


def test_a_plain_dvc_repro_brings_the_files_too(workspace, hub):
    _, address = hub
    [folder] = (workspace / "models/start").glob("*/")
    shutil.rmtree(folder)
    shutil.rmtree(workspace / ".cache/hub", ignore_errors=True)
    words = [sys.executable, "-m", "dvc", "repro", "-q", "train"]
    without = shell(workspace, *words, HF_ENDPOINT=NOWHERE)
    assert without.returncode != 0 and "the hub cannot be reached" in without.stderr
    assert f"hf download {REPO} --revision {REVISION}" in without.stderr
    done = shell(workspace, *words, HF_ENDPOINT=address, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    assert f"`dvc add {folder.relative_to(workspace)}` versions it" in done.stderr
    assert (folder / "source.json").is_file()
