"""`make test-team-stack`: the set-up of docs/deploy.md on one machine, for real, and what happens
when parts of it fail.

PostgreSQL behind Prefect, MLflow and Optuna; logins at both servers; artifacts and the DVC remote
in an S3 server (moto, where it can be installed); a project that knows all this from its `.env`
alone, a worker, runs over REST, a schedule, a sweep, PostgreSQL restarted in the middle, wrong
passwords. Ends with a search for passwords in everything that was written.
"""

import base64
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "flows")]

from postgres import Postgres  # noqa: E402
from workspaces import clean_environment, copy_project, shell  # noqa: E402

from flows.processes import LOOPBACK, Child, free_port  # noqa: E402

TOOLS = ROOT / ".cache" / "team-stack"  # what the servers need and this project does not
PATIENCE_S = 900.0  # a machine that does other work as well
WRONG_S = 20.0  # a wrong password is answered within this time, import of the tools included
TINY = {
    "data.options": {"train": 24, "val": 6, "test": 6, "size": 64, "min_px": 16, "max_px": 40},
    "train.imgsz": 64,
    "train.batch": 8,
    "train.epochs": 2,
    "train.plots": False,
}
STARTED = time.monotonic()


def say(words: str) -> None:
    print(f"{time.monotonic() - STARTED:6.1f} s  {words}", flush=True)


def check(true: bool, words: str) -> None:
    if not true:
        raise SystemExit(f"FAILED: {words}")
    say(words)


def wait_until(true, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"FAILED: waited {PATIENCE_S:.0f} s in vain for: {what}")
        time.sleep(0.5)


def tools(name: str, *words: str) -> str:
    """A folder with packages of their own for one server, made at the first time."""
    folder = TOOLS / name
    if not (folder / ".done").is_file():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--target",
            str(folder),
            *words,
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        (folder / ".done").touch()
    return str(folder)


class Web:
    """JSON over HTTP with a login."""

    def __init__(self, url: str, login: str):
        self.url, self.headers = (
            url,
            {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"},
        )

    def __call__(self, path: str, body=None, method: str | None = None):
        data = None if body is None else json.dumps(body).encode()
        headers = self.headers | {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def state(self, run: str) -> str:
        with contextlib.suppress(OSError):  # its database is being restarted
            return self(f"/flow_runs/{run}")["state"]["type"]
        return "UNKNOWN"

    def over(self, run: str) -> bool:
        return self.state(run) in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Stack:
    """All servers, and the project that uses them."""

    def __init__(self, base: Path):
        self.base, self.children = base, []
        self.secrets = {
            name: secrets.token_hex(12) for name in ("prefect-login", "mlflow-login", "s3", "flask")
        }
        self.postgres = Postgres(base / "postgres")
        self.project = base / "project"

    def child(self, name: str, command: list[str], **env: str) -> Child:
        log = self.base / "logs" / f"{name}.log"
        given = {
            key: "" for key in os.environ if key.startswith(("PREFECT_", "MLFLOW_", "DETECTFLOW_"))
        }
        child = Child(
            name, [sys.executable, "-m", *command], log, {**given, "DO_NOT_TRACK": "true", **env}
        )
        self.children.append(child)
        return child

    def start(self) -> None:
        self.postgres.start()
        for name in ("prefect", "mlflow", "mlflow_auth", "optuna"):
            self.postgres.make(name)
        say("PostgreSQL is up, with four databases")
        self.s3 = self.start_s3()
        self.start_prefect()
        self.start_mlflow()
        say("Prefect and MLflow are up, both with a login")

    def start_s3(self) -> dict[str, str]:
        """An S3-compatible server and the variables for it; nothing where moto cannot be had."""
        try:
            folder = tools("moto", "moto[server]")
        except subprocess.CalledProcessError:
            say("moto cannot be installed: artifacts and the DVC remote lie in folders")
            return {}
        port = free_port()
        url = f"http://{LOOPBACK}:{port}"
        moto = self.child(
            "moto", ["moto.server", "-H", LOOPBACK, "-p", str(port)], PYTHONPATH=folder
        )
        moto.wait_until_it_answers(f"{url}/moto-api/", 60)
        for bucket in ("artifacts", "dvc"):
            urllib.request.urlopen(
                urllib.request.Request(f"{url}/{bucket}", method="PUT"), timeout=10
            ).close()
        say("an S3 server is up")
        return {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "team",
            "AWS_SECRET_ACCESS_KEY": self.secrets["s3"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start_prefect(self) -> None:
        port, login = free_port(), f"team:{self.secrets['prefect-login']}"
        self.prefect_url = f"http://{LOOPBACK}:{port}/api"
        server = self.child(
            "prefect",
            ["prefect", "server", "start", "--host", LOOPBACK, "--port", str(port), "--no-ui"],
            PREFECT_HOME=str(self.base / "prefect"),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_SERVER_DATABASE_CONNECTION_URL=self.postgres.url("prefect", "asyncpg"),
            PREFECT_SERVER_API_AUTH_STRING=login,
            PREFECT_API_AUTH_STRING=login,
            PREFECT_API_URL=self.prefect_url,
            PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="2",
        )
        server.wait_until_it_answers(f"{self.prefect_url}/health", 180)
        self.prefect = Web(self.prefect_url, login)

    def start_mlflow(self) -> None:
        port, password = free_port(), self.secrets["mlflow-login"]
        self.mlflow_url = f"http://{LOOPBACK}:{port}"
        lacking = [] if importlib.util.find_spec("flask_wtf") else ["flask-wtf<2", "wtforms"]
        if self.s3 and not importlib.util.find_spec("boto3"):
            lacking += [
                f"boto3=={importlib.metadata.version('botocore')}",
                "s3transfer",
                "jmespath",
            ]
        self.tools = tools("mlflow", "--no-deps", *lacking) if lacking else ""
        settings = self.base / "mlflow-auth.ini"
        settings.write_text(
            "[mlflow]\ndefault_permission = READ\ndatabase_uri = "
            f"{self.postgres.url('mlflow_auth')}\nadmin_username = admin\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        files = "s3://artifacts" if self.s3 else str(self.base / "artifacts")
        server = self.child(
            "mlflow",
            [
                "mlflow",
                "server",
                "--app-name",
                "basic-auth",
                "--host",
                LOOPBACK,
                "--port",
                str(port),
                "--workers",
                "1",
                "--artifacts-destination",
                files,
            ],
            MLFLOW_BACKEND_STORE_URI=self.postgres.url("mlflow"),
            MLFLOW_AUTH_CONFIG_PATH=str(settings),
            MLFLOW_AUTH_ADMIN_PASSWORD=password,
            MLFLOW_FLASK_SERVER_SECRET_KEY=self.secrets["flask"],
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
            PYTHONPATH=self.tools,
            **self.s3,
        )
        server.wait_until_it_answers(f"{self.mlflow_url}/health", 180)
        self.mlflow = Web(f"{self.mlflow_url}/api/2.0", f"admin:{password}")

    def make_project(self) -> None:
        """A copy of this project under git and DVC, whose `.env` is all it knows of the team."""
        copy_project(self.project)
        settings = {
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_API_AUTH_STRING": f"team:{self.secrets['prefect-login']}",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secrets["mlflow-login"],
            "DETECTFLOW_TUNE_STORAGE": self.postgres.url("optuna"),
            **self.s3,
        }
        (self.project / ".env").write_text(
            "".join(f"export {name}='{value}'\n" for name, value in settings.items())
        )
        (self.project / ".env").chmod(0o600)
        remote = "s3://dvc/store" if self.s3 else str(self.base / "store")
        self.run("git", "init", "-q", "-b", "main")
        self.run(sys.executable, "-m", "dvc", "init", "-q", "--force")
        self.run("git", "checkout", "-q", "--", ".", fails=True)
        shutil.copy(ROOT / ".dvc" / "config", self.project / ".dvc" / "config")
        self.run(sys.executable, "-m", "dvc", "remote", "add", "-d", "store", remote)
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "project")

    def run(self, *words: str, fails: bool = False, **env: str) -> subprocess.CompletedProcess:
        """A command in the project with nothing of ours in its environment."""
        done = shell(self.project, *words, **env)
        if done.returncode and not fails:
            raise SystemExit(f"FAILED: {' '.join(words)}\n{done.stdout}\n{done.stderr}")
        return done

    def detectflow(self, *words: str, **options) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "engine", *words, **options)

    def submit(self, **parameters) -> str:
        deployment = self.prefect("/deployments/name/pipeline/train")["id"]
        return self.prefect(
            f"/deployments/{deployment}/create_flow_run", {"parameters": parameters}
        )["id"]

    def restart_postgres(self) -> None:
        self.postgres.stop()
        time.sleep(3)
        self.postgres.start()

    def stop(self) -> None:
        for child in reversed(self.children):
            child.stop()
        self.postgres.stop()


def by_deployment(stack: Stack) -> None:
    """Deploy, work, run with parameters: the version is in the team's registry, the files in its
    storage.

    After two epochs it finds nothing, so it is challenger and not champion.
    """
    said = stack.detectflow("deploy", "train", "nightly").stdout
    check("train, nightly" in said, "deployments are registered, by the settings of .env alone")
    worker = Child(
        "worker",
        [sys.executable, "-m", "engine", "worker"],
        stack.base / "logs" / "worker.log",
        cwd=stack.project,
    )
    stack.children.append(worker)
    run = stack.submit(overrides=TINY)
    wait_until(lambda: stack.prefect.over(run), "the run over REST")
    check(
        stack.prefect.state(run) == "COMPLETED",
        "a run started over REST with parameters is complete",
    )
    alias = stack.mlflow("/mlflow/registered-models/alias?name=detector&alias=challenger")[
        "model_version"
    ]
    check(alias["version"] == "1", "the registry has detector version 1 as challenger")
    files = stack.mlflow("/mlflow-artifacts/artifacts?path=")["files"]
    check(bool(files), "its files went through the MLflow server into the artifact store")
    stack.run("sh", "-c", f"set -a; . ./.env; set +a; {sys.executable} -m dvc push -q")
    said = stack.run(
        "sh", "-c", f"set -a; . ./.env; set +a; {sys.executable} -m dvc status -c"
    ).stdout
    check("in sync" in said, "`dvc push` brought data and weights to the remote")


def by_schedule(stack: Stack) -> None:
    """What the pins are for: with SQLAlchemy 2.1 the server runs and schedules never fire."""
    planned = stack.prefect(
        "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    )
    check(
        any(each["auto_scheduled"] for each in planned), "the nightly schedule has planned its runs"
    )
    deployment = stack.prefect("/deployments/name/pipeline/train")["id"]
    every = [{"active": True, "schedule": {"interval": 20}}]
    made = stack.prefect(f"/deployments/{deployment}/schedules", every)
    flag = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    wait_until(
        lambda: any(each["auto_scheduled"] for each in stack.prefect("/flow_runs/filter", flag)),
        "a scheduled run",
    )
    stack.prefect(f"/deployments/{deployment}/schedules/{made[0]['id']}", method="DELETE")
    say("a schedule fired, and its run is complete")


def restart_under_a_run(stack: Stack) -> None:
    """PostgreSQL goes and comes while a training reports to it."""
    run = stack.submit(overrides={"train.epochs": 12})
    metrics = "SELECT count(*) FROM metrics"
    before = stack.postgres.ask("mlflow", metrics)[0][0]
    wait_until(
        lambda: stack.postgres.ask("mlflow", metrics)[0][0] > before or stack.prefect.over(run),
        "its first metrics",
    )
    check(not stack.prefect.over(run), "a second run trains, and PostgreSQL is restarted under it")
    stack.restart_postgres()
    wait_until(lambda: stack.prefect.over(run), "the end of the run")
    state = stack.prefect.state(run)
    say(f"the run under which PostgreSQL was restarted is {state}")
    if state != "COMPLETED":
        again = stack.submit()
        wait_until(lambda: stack.prefect.over(again), "the run again")
        check(stack.prefect.state(again) == "COMPLETED", "the same run again is complete")
    epochs = (
        "SELECT count(DISTINCT step) FROM metrics WHERE key = 'train/box_loss' GROUP BY run_uuid "
        "ORDER BY 1 DESC LIMIT 1"
    )
    wait_until(lambda: stack.postgres.ask("mlflow", epochs)[0][0] == 12, "the metrics of 12 epochs")
    say("MLflow has the metrics of all 12 epochs: nothing was lost")


def by_sweep(stack: Stack) -> None:
    """Two trials at a time with Optuna's storage in PostgreSQL, which is restarted in the
    middle.
    """
    words = ["tune", "trials=4", "epochs=2", "jobs=2", "study=team", "imgsz=64", "batch=8"]
    search = Child(
        "sweep",
        [sys.executable, "-m", "engine", *words],
        stack.base / "logs" / "sweep.log",
        cwd=stack.project,
    )
    stack.children.append(search)
    ended = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
    tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'trials'"

    def there() -> bool:
        ask = stack.postgres.ask
        return bool(ask("optuna", tables)[0][0] and ask("optuna", ended)[0][0])

    wait_until(lambda: there() or not search.is_alive, "the first trial")
    check(
        search.is_alive,
        "a sweep with two jobs has its first trial, and PostgreSQL is restarted under it",
    )
    stack.restart_postgres()
    wait_until(lambda: not search.is_alive, "the end of the sweep")
    say(f"the sweep ended with exit code {search.process.returncode}")
    if search.process.returncode:
        stack.detectflow(*words)
        say("the same command went on")
    check(
        stack.postgres.ask("optuna", ended)[0][0] >= 4,
        "the study in PostgreSQL has its four trials",
    )


def maintenance(stack: Stack) -> None:
    """Back-up and restore, and the migrations of docs/deploy.md."""
    query = (
        "SELECT count(*), max(step), round(sum(value)::numeric, 6) FROM metrics WHERE key = "
        "'train/box_loss'"
    )
    stack.postgres.restore(stack.postgres.dump("mlflow", "-Fc"), "mlflow_restored")
    saved, restored = (stack.postgres.ask(name, query) for name in ("mlflow", "mlflow_restored"))
    check(
        saved == restored,
        f"a restored back-up of MLflow's database has the same metrics: {saved[0]}",
    )
    python = [sys.executable, "-m"]
    stack.run(*python, "mlflow", "db", "upgrade", stack.postgres.url("mlflow_restored"))
    stack.run(
        *python,
        "mlflow.server.auth",
        "db",
        "upgrade",
        "--url",
        stack.postgres.url("mlflow_auth"),
        PYTHONPATH=stack.tools,
    )
    address = stack.postgres.url("prefect", "asyncpg")
    stack.run(
        *python,
        "prefect",
        "server",
        "database",
        "upgrade",
        "-y",
        PREFECT_SERVER_DATABASE_CONNECTION_URL=address,
    )
    say("the migrations of MLflow, its logins and Prefect run")


def wrong_passwords(stack: Stack) -> None:
    """One sentence, at once."""
    started = time.monotonic()
    done = stack.detectflow("deploy", fails=True, PREFECT_API_AUTH_STRING="team:wrong")
    check(
        "PREFECT_API_AUTH_STRING is not the one it expects" in done.stderr,
        "a wrong Prefect password is named",
    )
    done = stack.run(
        sys.executable,
        "-m",
        "engine.stages",
        "register",
        fails=True,
        MLFLOW_TRACKING_PASSWORD="wrong",
    )
    check(
        "MLFLOW_TRACKING_PASSWORD are missing or wrong" in done.stderr,
        "a wrong MLflow password is named",
    )
    check(time.monotonic() - started < 2 * WRONG_S, "and both in seconds")


def no_password_anywhere(stack: Stack) -> None:
    """In databases, reports, logs: everything that was written, except where a password belongs."""
    wanted = [
        value.encode() for value in [*stack.secrets.values(), *stack.postgres.passwords.values()]
    ]
    places = {
        f"database {name}": stack.postgres.dump(name) for name in ("prefect", "mlflow", "optuna")
    }
    folders = [
        stack.base / "logs",
        *(
            stack.project / name
            for name in ("reports", "runs", "weights", "export", ".cache", ".git")
        ),
    ]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    files += [each for each in stack.project.iterdir() if each.is_file() and each.name != ".env"]
    places |= {str(file.relative_to(stack.base)): file.read_bytes() for file in files}
    found = [place for place, content in places.items() if any(each in content for each in wanted)]
    check(
        not found,
        f"no password in {len(places)} files and "
        f"databases{': ' + ', '.join(found) if found else ''}",
    )


PARTS = [
    by_deployment,
    by_schedule,
    restart_under_a_run,
    by_sweep,
    maintenance,
    wrong_passwords,
    no_password_anywhere,
]


def main(wanted: list[str]) -> int:
    """Everything, or the parts that are named: later ones build on `by_deployment`."""
    parts = [part for part in PARTS if not wanted or part.__name__ in wanted]
    if len(parts) < len(wanted):
        raise SystemExit(f"the parts are: {', '.join(part.__name__ for part in PARTS)}")
    base = Path(tempfile.mkdtemp(prefix="team-stack-"))
    base.chmod(0o755)
    stack = Stack(base)
    try:
        stack.start()
        stack.make_project()
        for part in parts:
            part(stack)
    except BaseException:
        print(f"What was written is in {base}", file=sys.stderr)
        raise
    finally:
        stack.stop()
    shutil.rmtree(base)
    say("everything is shut down")
    return 0


if __name__ == "__main__":
    os.environ |= {name: value for name, value in clean_environment().items() if name == "PATH"}
    sys.exit(main(sys.argv[1:]))
