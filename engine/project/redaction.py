"""Passwords and tokens: never in a log line, a report or a tracker, and sent where a server asks
for them.

What is shown of an address keeps the user and loses the password. Standard library only.
"""

from __future__ import annotations

import base64
import os
import re
import urllib.parse

HIDDEN = "***"

# `://user:password@`, up to the last @ of the word; `:5000/` is a port. A token may stand alone
# before the @ of a web address.
_WORD = re.compile(r"[^\s\"']+")
_PASSWORD = re.compile(r"://[^/:@]*:(?!\d{1,5}/)")
_TOKEN = re.compile(r"(https?://)(?!\*\*\*@)[^\s/:@\"']+@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&][\w-]*(?:password|passwd|token|secret|signature|sig|key)=)[^\s&#\"']+", re.IGNORECASE
)


# Variables that hold nothing but a secret, or `user:password`.
SECRET_VARIABLES = (
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
)
SHORTEST_SECRET = 8  # a shorter one would be found within ordinary words


def hide(text: str) -> str:
    """`text` with the passwords and tokens of all addresses in it, and the values of
    `SECRET_VARIABLES`, replaced by `***`.
    """
    for secret in _known_secrets():
        text = text.replace(secret, HIDDEN)
    if "://" not in text:
        return text
    return _QUERY.sub(
        rf"\1{HIDDEN}", _TOKEN.sub(rf"\1{HIDDEN}@", _WORD.sub(_without_password, text))
    )


def _known_secrets() -> list[str]:
    """What must not be shown, longest first: also as basic authentication writes it."""
    found: set[str] = set()
    for value in filter(None, map(os.environ.get, SECRET_VARIABLES)):
        found |= {value, value.partition(":")[2], base64.b64encode(value.encode()).decode()}
    return sorted((each for each in found if len(each) >= SHORTEST_SECRET), key=len, reverse=True)


def _without_password(found: re.Match[str]) -> str:
    word = found[
        0
    ]  # looked at once: one pattern for begin and end would take the square of its length
    end = word.rfind("@") if "://" in word else -1
    begin = _PASSWORD.search(word, 0, end) if end > 0 else None
    return f"{word[: begin.end()]}{HIDDEN}{word[end:]}" if begin and begin.end() < end else word


def without_user(url: str) -> str:
    """An address for a link: neither user nor password."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def mlflow_login(uri: str) -> tuple[str, dict[str, str]]:
    """(address without user, headers) for a question to an MLflow server; MLflow's own variables
    count, as for its client.
    """
    user, password = (
        os.environ.get("MLFLOW_TRACKING_USERNAME"),
        os.environ.get("MLFLOW_TRACKING_PASSWORD"),
    )
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    parts = urllib.parse.urlsplit(uri)
    address = without_user(uri)
    if user and password:
        return address, _basic(f"{user}:{password}")
    if token:
        return address, {"Authorization": f"Bearer {token}"}
    if parts.username:
        named = (
            f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        )
        return address, _basic(named)
    return address, {}


def prefect_login() -> dict[str, str]:
    """Headers for a question to a Prefect server."""
    given = os.environ.get("PREFECT_API_AUTH_STRING")
    return _basic(given) if given else {}


def _basic(user_and_password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(user_and_password.encode()).decode()}"}
