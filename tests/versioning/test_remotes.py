"""DVC remotes for real: pushed from one project, pulled into fresh clones, by a local folder and by
SSH; S3's settings.

The project is prepared and trained once, on images outside it that are gone before anything is
cloned.
"""

import getpass
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import warm_processes
import yaml
from ssh_server import SshServer

from engine.config import Params
from engine.errors import WorkspaceError
from engine.stages.prepare import source_changed
from engine.versioning.dvc_repo import DvcStages

pytestmark = pytest.mark.system

pytest.importorskip("dvc_ssh")
pytest.importorskip("dvc_s3")

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "engine",
    "models",
    "dvc.yaml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
)
SETTINGS = {
    "data": {"source": "data/parts.yaml"},
    "train": {
        "model": "yolov8n",
        "imgsz": 64,
        "epochs": 1,
        "batch": 4,
        "device": "cpu",
        "plots": False,
    },
}
STORE = (
    """['remote "store"']\n    url = {url}\n[core]\n    remote = store\n    analytics = false\n"""
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user without keys, agents or clouds of their own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shell(home):
    """(folder, words) -> a finished process in a user's shell, the project's programs in front."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_", "DETECTFLOW_", "AWS_", "SSH_"))
    }
    someone = {
        f"GIT_{who}_{what}": f"t@{what}"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    own = {
        "HOME": str(home),
        "PATH": os.pathsep.join(
            (warm_processes.programs(), str(Path(sys.executable).parent), os.environ["PATH"])
        ),
        "OMP_NUM_THREADS": "1",
        "DVC_NO_ANALYTICS": "1",
        "DETECTFLOW_TRACKING": "off",
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
    }

    def run(folder, *words, **env):
        return warm_processes.run(
            words,
            cwd=folder,
            env=kept | someone | own | env,
            text=True,
            capture_output=True,
            timeout=200,
        )

    return run


@pytest.fixture(scope="module")
def do(shell):
    """The same, for what must succeed: (folder, words) -> what it printed."""

    def run(folder, *words):
        done = shell(folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory, do):
    """Prepared and trained by `dvc repro`, committed; the raw images are gone."""
    base = tmp_path_factory.mktemp("remotes")
    root, raw = base / "project", base / "raw"
    for name in COPIED:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(
            source,
            target,
            **(
                {"ignore": shutil.ignore_patterns("__pycache__", "*.pyc")}
                if source.is_dir()
                else {}
            ),
        )
    make_raw(raw)
    (root / "data" / "raw").mkdir(parents=True)
    (root / "data" / "raw" / "README.md").write_text("raw data are elsewhere\n")
    (root / "data" / "parts.yaml").write_text(
        yaml.safe_dump({"name": "parts", "format": "yolo", "names": ["part"]})
    )
    (root / "params.yaml").write_text(
        yaml.safe_dump(SETTINGS | {"data": SETTINGS["data"] | {"path": str(raw)}})
    )
    do(root, "git", "init", "-q", "-b", "main")
    do(root, "dvc", "init", "-q", "--force")
    do(root, "git", "checkout", "-q", "-B", "main")
    do(root, "dvc", "repro", "-q", "train")
    shutil.rmtree(raw)
    do(root, "git", "add", "-A")
    do(root, "git", "commit", "-qm", "trained")
    return root


def make_raw(folder: Path) -> None:
    """Eight images of one bright square with YOLO labels, split as given."""
    import cv2
    import toys

    for number in range(8):
        split = ("train", "train", "val", "test")[number % 4]
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / split / f"{number}.png"), toys.image(number))
        (folder / "labels" / split / f"{number}.txt").write_text("0 0.4 0.4 0.25 0.25\n")


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    server = SshServer(tmp_path_factory.mktemp("ssh") / "server")
    server.start()
    yield server
    server.stop()


def use(root: Path, url: str, **local: str) -> None:
    """The remote `store` of a project or clone; `local` goes where credentials belong."""
    (root / ".dvc" / "config").write_text(STORE.format(url=url))
    lines = [f"    {key} = {value}\n" for key, value in local.items()]
    (root / ".dvc" / "config.local").write_text("".join(["['remote \"store\"']\n", *lines]))


def cloned(root: Path, target: Path, do) -> Path:
    do(target.parent, "git", "clone", "-q", str(root), str(target))
    return target


def nothing_to_redo(clone: Path, do) -> bool:
    """Both drivers agree that data and weights are those of the lock."""
    repro = do(clone, "dvc", "repro", "train").replace("Running stage 'code'", "")
    quiet = do(clone, "dvc", "status", "train", "prepare")

    def redo():
        raise AssertionError("made again")

    params = Params.load(clone / "params.yaml")
    prepare = DvcStages(clone).run("prepare", redo, stale=lambda: source_changed(params, clone))
    how = [prepare.status, DvcStages(clone).run("train", redo).status]
    return "up to date" in quiet and "Running stage" not in repro and how == ["skipped", "skipped"]


def test_a_local_folder(project, tmp_path, do):
    use(project, str(tmp_path / "store"))
    do(project, "dvc", "push", "-q")
    clone = cloned(project, tmp_path / "clone", do)
    use(clone, str(tmp_path / "store"))
    do(clone, "dvc", "pull", "-q", "train", "prepare")
    assert (clone / "weights" / "best.pt").read_bytes() == (
        project / "weights" / "best.pt"
    ).read_bytes()
    assert nothing_to_redo(clone, do)


def test_ssh_and_a_changed_training_without_preparing_again(project, tmp_path, do, ssh):
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{ssh.port}{tmp_path / 'store'}"
    use(project, url, keyfile=str(ssh.key))
    do(project, "dvc", "push", "-q")
    clone = cloned(project, tmp_path / "clone", do)
    use(clone, url, keyfile=str(ssh.key))
    do(clone, "dvc", "pull", "-q", "train", "prepare")
    assert nothing_to_redo(clone, do)

    params = yaml.safe_load((clone / "params.yaml").read_text())
    params["train"]["lr0"] = 0.005
    (clone / "params.yaml").write_text(yaml.safe_dump(params))
    said = do(clone, "dvc", "repro", "train")
    assert "Running stage 'train'" in said and "Running stage 'prepare'" not in said
    assert (clone / "weights" / "best.pt").read_bytes() != (
        project / "weights" / "best.pt"
    ).read_bytes()
    digests = [
        json.loads((each / "reports" / "data.json").read_text())["digest"]
        for each in (project, clone)
    ]
    assert digests[0] == digests[1]


def test_both_kinds_of_ssh_server_are_taken_for_one(tmp_path, ssh):
    """The stand-in for machines without sshd lets the same key in and speaks the same SFTP."""
    import sshfs

    stand_in = SshServer(tmp_path / "server")
    stand_in.start(
        [
            sys.executable,
            str(Path(__file__).with_name("ssh_server.py")),
            str(stand_in.port),
            str(stand_in.folder),
        ]
    )
    try:
        for number, server in enumerate((ssh, stand_in)):
            files = sshfs.SSHFileSystem(
                "127.0.0.1",
                port=server.port,
                username=getpass.getuser(),
                client_keys=[str(server.key)],
                config=[],
            )
            files.pipe_file(str(tmp_path / str(number)), b"here")
            assert (tmp_path / str(number)).read_bytes() == b"here"
    finally:
        stand_in.stop()


class TestFaults:
    """What the deployment that works in a clone says; `detectflow run` asks no remote."""

    @pytest.fixture
    def push(self, project, home, monkeypatch):
        """The push of flows/pipeline_in_clone.py: () -> its error."""
        from flows.pipeline_in_clone import push

        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

        def run():
            with pytest.raises(WorkspaceError) as caught:
                push.fn(str(project))
            assert "Having any troubles" not in str(caught.value)
            return caught.value

        return run

    def test_ssh_that_does_not_answer_may_answer_later(self, project, push):
        from flows.pipeline_in_clone import RemoteUnreachable

        use(project, "ssh://127.0.0.1:9/store")
        error = push()
        assert isinstance(error, RemoteUnreachable)
        assert "store ssh://127.0.0.1:9/store" in str(error) and "Check its address" in str(error)

    def test_a_wrong_key_is_not_tried_again(self, project, push, ssh, tmp_path):
        from flows.pipeline_in_clone import RemoteUnreachable

        use(
            project,
            f"ssh://{getpass.getuser()}@127.0.0.1:{ssh.port}{tmp_path}",
            keyfile=str(ssh.other_key),
        )
        error = push()
        assert not isinstance(error, RemoteUnreachable)
        assert "Permission denied" in str(
            error
        ) and "give the worker its key or credentials" in str(error)

    def test_no_credentials_for_s3_is_not_tried_again(self, project, push, monkeypatch, tmp_path):
        from flows.pipeline_in_clone import RemoteUnreachable

        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        use(project, "s3://bucket/store", endpointurl="http://127.0.0.1:9")
        error = push()
        assert not isinstance(error, RemoteUnreachable) and "credentials" in str(error)

    def test_an_s3_endpoint_that_does_not_answer_may_answer_later(self, project, push, monkeypatch):
        from flows.pipeline_in_clone import RemoteUnreachable

        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        use(project, "s3://bucket/store", endpointurl="http://127.0.0.1:9")
        error = push()
        assert isinstance(error, RemoteUnreachable)
        assert "http://127.0.0.1:9" in str(error) and "store s3://bucket/store" in str(error)

    def test_a_password_in_an_address_is_not_shown(self, project, push):
        use(project, "ssh://me:hunter2@127.0.0.1:9/store")
        assert "hunter2" not in str(push())

    def test_no_remote_at_all(self, project):
        from flows.pipeline_in_clone import require_remote

        (project / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
        (project / ".dvc" / "config.local").unlink(missing_ok=True)
        with pytest.raises(WorkspaceError, match="no default DVC remote.*dvc remote add --default"):
            require_remote(project)


def test_the_documented_commands_configure_s3(tmp_path, do):
    """docs/data/remotes.md's own lines, and the file system that DVC builds from what they
    leave.
    """
    from dvc.repo import Repo

    page = (ROOT / "docs" / "data" / "remotes.md").read_text()
    block = page.split("<!-- s3 -->")[1].split("```bash\n")[1].split("```")[0]
    commands = [
        line.split("#")[0].split() for line in block.splitlines() if line.startswith("dvc remote")
    ]
    assert len(commands) >= 3
    do(tmp_path, "git", "init", "-q")
    do(tmp_path, "dvc", "init", "-q")
    for words in commands:
        do(tmp_path, *words)
    config = (tmp_path / ".dvc" / "config").read_text()
    assert "secret" not in config and "access_key" not in config
    with Repo(str(tmp_path)) as repo:
        remote = repo.cloud.get_remote()
        files = remote.fs
        assert (
            files.protocol == "s3"
            and files.fs_args["client_kwargs"]["endpoint_url"] == "https://minio.example.org:9000"
        )
        assert files.fs_args["config_kwargs"]["connect_timeout"] == 10
        assert (
            not {"key", "secret"} & files.fs_args.keys()
        )  # from the environment, which boto reads
        assert remote.path == "detectflow/dvc"


def test_raw_data_that_dvc_add_versions_are_pushed_and_pulled_too(tmp_path, do):
    """With the project's own .gitignore: a pattern that hides data/raw itself makes `dvc push`
    leave them out in silence.
    """
    root, clone = tmp_path / "project", tmp_path / "clone"
    make_raw(root / "data" / "raw" / "parts")
    shutil.copy(ROOT / ".gitignore", root)
    do(root, "git", "init", "-q")
    do(root, "dvc", "init", "-q")
    do(root, "dvc", "remote", "add", "-q", "--default", "store", str(tmp_path / "store"))
    do(root, "dvc", "add", "-q", "data/raw/parts")
    do(root, "git", "add", "-A")
    do(root, "git", "commit", "-qm", "raw")
    assert "data/raw/parts.dvc" in do(root, "git", "ls-files") and "parts/images" not in do(
        root, "git", "ls-files"
    )
    do(root, "dvc", "push", "-q")
    cloned(root, clone, do)
    do(clone, "dvc", "pull", "-q")
    assert (clone / "data" / "raw" / "parts" / "images" / "train" / "0.png").is_file()
    assert "up to date" in do(clone, "dvc", "status")
