"""A PostgreSQL server of Debian's packages for one trial: own data folder, loopback, a free port,
passwords for everybody.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from flows.processes import LOOPBACK, free_port

START_S = 60.0


class Postgres:
    """Started, stopped and restarted as one likes; `url` names a database with user and
    password.
    """

    def __init__(self, home: Path):
        self.bin, self.home, self.data = _programs(), home, home / "data"
        self.port, self.passwords, self.process = (
            free_port(),
            {"owner": secrets.token_hex(12)},
            None,
        )
        home.mkdir()
        # Run by root, PostgreSQL refuses; Debian's package makes the user.
        self.user = (
            {"user": "postgres", "group": "postgres", "extra_groups": []}
            if os.getuid() == 0
            else {}
        )
        password = home / "password"
        password.write_text(self.passwords["owner"])
        if self.user:
            shutil.chown(home, "postgres", "postgres")
            shutil.chown(password, "postgres", "postgres")
        command = [
            self.bin / "initdb",
            "-D",
            self.data,
            "-U",
            "owner",
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        subprocess.run(command, check=True, cwd=home, stdout=subprocess.DEVNULL, **self.user)
        password.unlink()

    def start(self) -> None:
        command = [
            self.bin / "postgres",
            "-D",
            self.data,
            "-h",
            LOOPBACK,
            "-p",
            str(self.port),
            "-k",
            self.home,
        ]
        with open(self.home.parent / "postgres.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.home, stdout=log, stderr=log, start_new_session=True, **self.user
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                return psycopg.connect(self._owner("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """As `systemctl stop` does it: connections are cut, what was committed stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_S)

    def make(self, name: str) -> None:
        """A database `name` that belongs to a user `name`."""
        self.passwords[name] = secrets.token_hex(12)
        with psycopg.connect(self._owner("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{self.passwords[name]}'")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")

    def url(self, name: str, driver: str = "psycopg") -> str:
        return f"postgresql+{driver}://{name}:{self.passwords[name]}@{LOOPBACK}:{self.port}/{name}"

    def ask(self, name: str, query: str) -> list[tuple]:
        with psycopg.connect(self._owner(name)) as connection:
            return connection.execute(query).fetchall()

    def dump(self, name: str, *options: str) -> bytes:
        done = subprocess.run(
            [self.bin / "pg_dump", *options, self._owner(name)], check=True, capture_output=True
        )
        return done.stdout

    def restore(self, dump: bytes, name: str) -> None:
        """A dump of format `-Fc` as the new database `name`, by its own user, to whom the tables
        then belong.
        """
        self.make(name)
        address = self.url(name).replace("+psycopg", "")
        subprocess.run(
            [self.bin / "pg_restore", "--no-owner", "-d", address], input=dump, check=True
        )

    def _owner(self, database: str) -> str:
        return f"postgresql://owner:{self.passwords['owner']}@{LOOPBACK}:{self.port}/{database}"


def _programs() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda file: int(file.parent.parent.name),
    )
    if not found:
        raise SystemExit(
            "No PostgreSQL server on this machine: `apt-get install postgresql`, then again."
        )
    return found[-1].parent
