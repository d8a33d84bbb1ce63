"""What a stage records for the tracker, on disk first: records are appended, sent later, and may be
sent twice.

One journal belongs to one execution of one stage and is deleted once all of it is sent. It holds
its own copies of files that are to be uploaded, so the stage's results may be replaced meanwhile.
Its writer, later its sender, holds a lock on
it that dies with the process: a journal that can be locked was left behind. Knows nothing of
MLflow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from engine.files import read_object
from engine.locks import Lock, holder_of

logger = logging.getLogger("detectflow.tracking")

Record = dict[
    str, Any
]  # "do": what to do, see engine.tracking.mlflow_recorder; the rest is its arguments

RECORDS, CURSOR, FILES, LOCK = "journal.jsonl", "cursor.json", "files", "lock"


class Journal:
    """A locked journal folder: `Journal.create` for a new one, `Journal.take` for one that was left
    behind.
    """

    def __init__(self, folder: Path, lock: Lock | None, closed: bool):
        self.folder = folder
        self.closed = closed  # nothing will be appended any more
        self.rewound = False  # whether it was sent a second time from its beginning
        self._lock = lock
        self._files = 0
        self._appending = threading.Lock()  # the stage and what watches the machine write
        cursor = read_object(folder / CURSOR)
        self.offset: int = cursor.get("offset", 0)  # bytes of the records that were sent
        self.run_id: str | None = cursor.get("run_id")  # the tracker's name of the run, once known

    @classmethod
    def create(cls, home: Path, name: str) -> Journal:
        """An empty journal below `home`; names sort by time. OSError when the disk refuses it."""
        home.mkdir(parents=True, exist_ok=True)
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{int(now % 1 * 1000):03}"
        folder = home / f"{stamp}-{name}-{secrets.token_hex(3)}"
        # Under a hidden name until it is locked, so that nobody takes it for one that was left
        # behind.
        hidden = home / f".{folder.name}"
        (hidden / FILES).mkdir(parents=True)
        lock = Lock(hidden / LOCK)
        assert lock.try_take()
        (hidden / RECORDS).touch()
        os.rename(hidden, folder)
        return cls(folder, lock, closed=False)

    @classmethod
    def take(cls, folder: Path) -> Journal | None:
        """A journal that was left behind, or None where its owner lives or it has gone."""
        lock = Lock(folder / LOCK)
        try:
            if not lock.try_take():
                return None
        except FileNotFoundError:
            return None
        if not (folder / RECORDS).is_file():  # removed between listing and locking
            lock.release()
            return None
        return cls(folder, lock, closed=True)

    @property
    def name(self) -> str:
        return self.folder.name

    def append(self, *records: Record) -> None:
        """Write records, all or none, and wait until they are on the disk. OSError when it is
        full.
        """
        lines = "".join(
            json.dumps(record, ensure_ascii=False) + "\n" for record in records
        ).encode()
        with self._appending, open(self.folder / RECORDS, "ab", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            try:
                while lines:
                    lines = lines[stream.write(lines) :]
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(end)
                raise

    def keep(self, file: Path, name: str | None = None) -> str:
        """Keep the content of `file` for upload, under its own name or `name`; returns its path
        within the journal.
        """
        target = self._place(name or file.name)
        try:
            os.link(file.resolve(), target)  # results are replaced, never written into
        except OSError:
            shutil.copyfile(file, target)
        return target.relative_to(self.folder).as_posix()

    def keep_text(self, name: str, text: str) -> str:
        """Keep `text` for upload as a file called `name`; returns its path within the journal."""
        target = self._place(name)
        target.write_text(text, encoding="utf-8")
        return target.relative_to(self.folder).as_posix()

    def _place(self, name: str) -> Path:
        with self._appending:
            self._files += 1
            target = self.folder / FILES / str(self._files) / name
        target.parent.mkdir(parents=True)
        return target

    def drop(self, kept: str) -> None:
        """Let go of a file that was kept: it was sent, or a newer one takes its place."""
        (self.folder / kept).unlink(missing_ok=True)

    def unsent(self) -> list[tuple[Record, int]]:
        """Records after the cursor, each with the offset of its end; a line cut by a crash is left
        out.
        """
        with open(self.folder / RECORDS, "rb") as stream:
            stream.seek(self.offset)
            content = stream.read()
        found, end = [], self.offset
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                record = json.loads(line)
                found.append((record if isinstance(record, dict) else {}, end))
            except ValueError:
                logger.warning(
                    "%s: a damaged record at byte %d is left out",
                    self.folder / RECORDS,
                    end - len(line),
                )
                found.append(({}, end))
        return found

    def first(self) -> Record:
        """The record it begins with, sent or not; empty where there is none."""
        with open(self.folder / RECORDS, "rb") as stream:
            line = stream.readline()
        with contextlib.suppress(ValueError):
            return json.loads(line) if line.endswith(b"\n") else {}
        return {}

    def sent(self, offset: int) -> None:
        """Remember that all up to `offset` was sent. Lost in a crash, it only means that something
        is sent twice.
        """
        self.offset = offset
        temporary = self.folder / f".{CURSOR}"
        temporary.write_text(json.dumps({"offset": offset, "run_id": self.run_id}))
        os.replace(temporary, self.folder / CURSOR)

    def remove(self) -> None:
        """Delete it, all of it having been sent."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let it go as it is; whoever comes next may take it."""
        if self._lock is not None:
            self._lock.release()


def journal_home(state: Path) -> Path:
    """Where the journals of a workspace lie."""
    return state / "runs" / "journal"


def left_behind(home: Path) -> list[Path]:
    """Journal folders, oldest first, whether or not somebody holds them."""
    return sorted(p for p in home.glob("[!.]*") if (p / RECORDS).is_file())


def is_held(folder: Path) -> bool:
    """Whether the journal's writer or sender is alive."""
    return holder_of(folder / LOCK) is not None
