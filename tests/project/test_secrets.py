"""No password in anything that is shown or kept; and our own questions to servers say who asks."""

import base64
import http.server
import json
import threading
import time

import pytest

from engine.config import Params
from engine.project.redaction import hide, mlflow_login, prefect_login, without_user
from engine.tracking import mlflow_links, run_metadata
from engine.tracking.mlflow_client import reason
from flows import processes

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    "text, shown",
    [
        (
            f"postgresql+psycopg://anna:{PASSWORD}@db:5432/mlflow",
            "postgresql+psycopg://anna:***@db:5432/mlflow",
        ),
        (
            f"refused by 'http://anna:{PASSWORD}@host/api'.",
            "refused by 'http://anna:***@host/api'.",
        ),
        (f"redis://:{PASSWORD}@host", "redis://:***@host"),
        (f"postgresql://anna:a/b@{PASSWORD}@host/db", "postgresql://anna:***@host/db"),
        (f"a://u:{PASSWORD}@h and b://v:{PASSWORD}@g", "a://u:***@h and b://v:***@g"),
        (f"https://{PASSWORD}@github.com/a/b.git", "https://***@github.com/a/b.git"),
        (
            f"https://s3/b.zip?X-Amz-Signature={PASSWORD}&x=1",
            "https://s3/b.zip?X-Amz-Signature=***&x=1",
        ),
        (f"https://host/b.zip?a=1&token={PASSWORD}", "https://host/b.zip?a=1&token=***"),
        (
            "http://127.0.0.1:5000/models/detector@champion",
            "http://127.0.0.1:5000/models/detector@champion",
        ),
        ("ssh://git@host/repo.git", "ssh://git@host/repo.git"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("models:/detector@champion", "models:/detector@champion"),
        ("data/digits.yaml", "data/digits.yaml"),
    ],
)
def test_passwords_are_hidden_and_nothing_else_changes(text, shown):
    assert hide(text) == shown
    assert hide(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "://x:" * 50_000,
        "https://x:" * 20_000 + "@",
        "?" + "key" * 70_000,
        "http" * 50_000 + "://a@",
    ],
)
def test_a_long_word_takes_no_long_time(text):
    begin = time.process_time()
    hide(text)
    assert time.process_time() - begin < 2


def test_links_have_no_user():
    assert without_user(f"http://anna:{PASSWORD}@host:5000/a?b=1") == "http://host:5000/a?b=1"
    assert without_user("http://host:5000") == "http://host:5000"


def test_an_error_of_a_database_hides_its_password():
    assert PASSWORD not in reason(
        ValueError(f"could not connect to postgresql://anna:{PASSWORD}@db/mlflow")
    )


def test_the_tracker_never_sees_the_password_of_a_data_source(tmp_path):
    params = Params.model_validate({"data": {"source": f"https://anna:{PASSWORD}@host/data.zip"}})
    assert run_metadata.flat_params(params)["data.source"] == "https://anna:***@host/data.zip"
    prepared = tmp_path / "data" / "prepared"
    prepared.mkdir(parents=True)
    (prepared / "dataset.json").write_text(
        json.dumps({"digest": "d", "counts": {"train": {"images": 1, "boxes": 1}}})
    )
    reported = run_metadata.dataset_inputs(tmp_path, params)
    assert "anna:***@host" in reported[0]["source"] and PASSWORD not in json.dumps(reported)


@pytest.fixture
def guarded(monkeypatch):
    """A server that knows one user; it answers with what MLflow would say of an experiment."""
    for name in (
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "PREFECT_API_AUTH_STRING",
    ):
        monkeypatch.delenv(name, raising=False)
    wanted = f"Basic {base64.b64encode(f'anna:{PASSWORD}'.encode()).decode()}"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("Authorization") in {wanted, "Bearer t0ken"}
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(
                json.dumps({"experiment": {"experiment_id": "7"}}).encode() if known else b"{}"
            )

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("way", ["variables", "address", "token"])
def test_questions_to_mlflow_carry_the_login(guarded, monkeypatch, tmp_path, way):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", guarded)
    assert mlflow_links.experiment_id("detectors", tmp_path) is None
    if way == "variables":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    elif way == "token":
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", guarded.replace("//", f"//anna:{PASSWORD}@"))
    assert mlflow_links.experiment_id("detectors", tmp_path) == "7"
    assert PASSWORD not in mlflow_links.ui_base(tmp_path) and mlflow_login(guarded)[0] == guarded


def test_questions_to_prefect_carry_the_login(guarded, monkeypatch):
    url = f"{guarded}/admin/version"
    assert processes.ask(url, login=prefect_login()).status_code == 401
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "anna:wrong")
    assert processes.ask(url, login=prefect_login()).status_code == 401
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"anna:{PASSWORD}")
    answer = processes.ask(url, login=prefect_login())
    assert answer.is_success and "experiment_id" in answer.text


def test_a_wrong_prefect_password_stops_before_any_run(guarded, monkeypatch, tmp_path):
    from engine.errors import WorkspaceError
    from flows.server import check_prefect

    with pytest.raises(WorkspaceError, match="PREFECT_API_AUTH_STRING is not set"):
        check_prefect(guarded)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "anna:wrong")
    with pytest.raises(WorkspaceError, match="is not the one it expects"):
        check_prefect(guarded)
