"""A project folder that was moved or copied: MLflow's database follows.

MLflow writes the absolute place of every run's and model's files into its database; from elsewhere
they would not be found, and a copy of the project would write into the original. The files of a
project without a server lie beside its database, so their place can be told anew. There is no call
of MLflow for that: the four columns are set directly.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

logger = logging.getLogger("detectflow.tracking")

PLACES = (  # table, column
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
BUSY_S = 10.0


def follow_move(database: Path, home: Path) -> int:
    """Tell `database` that files it looks for below another project's folder of the name of `home`
    are below `home`.

    An entry is changed only where its files are at the new place, or are no longer at the old one.
    Returns how many were.

    Raises:
        sqlite3.Error: the database is locked for longer than ten seconds, or is none.
    """
    if not database.is_file():
        return 0
    count = 0
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY_S)) as connection, connection:
        tables = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        for table, column in PLACES:
            if table not in tables:
                continue
            elsewhere = (
                f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE '/%' AND "
                f"substr({column}, 1, ?) != ?"
            )
            for (old,) in connection.execute(elsewhere, [len(str(home)), str(home)]).fetchall():
                new = _place_below(home, old)
                if new is not None and (new.exists() or not Path(old).exists()):
                    update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                    count += connection.execute(update, [str(new), old]).rowcount
    if count:
        logger.info(
            "MLflow: the project is in another place than before; %d entries of %s follow",
            count,
            database.name,
        )
    return count


def _place_below(home: Path, old: str) -> Path | None:
    """`/a/mlartifacts/x/y` is `x/y` below `/b/mlartifacts`; None for a place that is not below a
    folder of that name.
    """
    _, folder, rest = f"{old}/".rpartition(f"/{home.name}/")
    return home / rest.rstrip("/") if folder else None
