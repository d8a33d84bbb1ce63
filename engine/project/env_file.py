"""The project's `.env`: settings of the team's servers in one file, read by every entry point.
Standard library only.

A line is what a shell reads too, so that `set -a; . ./.env; set +a` gives `dvc` or `prefect` typed
by hand the same values;
but nothing is expanded or run here: where a shell would do so (`$`, back-quotes, `~`, `&`, `;` and
such, outside of single quotes) the line is refused.

Prefect reads the same file by itself, with python-dotenv, where `prefect` is typed by hand: a line
for Prefect that has another meaning there is refused, too.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.errors import ConfigError

_NAME = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=")
_SINGLE = re.compile(r"'([^']*)'(?:\s+#.*|\s*)", re.ASCII)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\s+#.*|\s*)', re.ASCII)
_BARE = re.compile(
    r"([^\s'\"#][^\s'\"]*)?(?:\s+#.*|\s*)", re.ASCII
)  # a # within a word belongs to it
_SHELL_BARE = re.compile(r"[$&;|()<>`\\]|(?:^|:)(?=~)")  # what a shell does not take as it stands
_SHELL_DOUBLE = re.compile(r"(?<!\\)(?:\\\\)*[$`]")
# What python-dotenv replaces: `${NAME}` everywhere, and more pairs with a backslash than a shell.
_DOTENV_SINGLE = re.compile(r"\\\\|\$\{")
_DOTENV_DOUBLE = re.compile(r"\\[^\"\\]|\$\{")
_DOTENV_BARE = re.compile(r"[^\S ]")
_ESCAPED = re.compile(r'\\(["\\$`])')


def read_env_file(path: Path) -> dict[str, str]:
    """Name -> value of `NAME=value` lines. Later lines win; an empty value counts as not given.

    Understood are comments, also after a value, blank lines, `export`, and values in quotes:
    between single ones every sign stands for itself, between double ones a backslash goes before
    `"`, a backslash, `$` and the back-quote.

    Raises:
        ConfigError: the file cannot be read, or a line is none of these; its number is named, its
            value never shown.
    """
    try:
        # no other sign ends a line for a shell
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}). It has to be a text file in UTF-8 with lines "
            "NAME=value."
        ) from error
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t\r")
        if not text or text.startswith("#"):
            continue
        name = _NAME.match(text)
        if name is None:
            raise ConfigError(
                f"{path}, line {number}: expected NAME=value, without spaces around =. "
                f"{_beginning(text)}"
            )
        place = f"{path}, line {number}: {name[1]}"
        _refuse_for_prefect(name[1], text[name.end() :], place)
        values[name[1]] = _value(text[name.end() :], place)
    return {name: value for name, value in values.items() if value}


def _beginning(text: str) -> str:
    """What of a wrong line may be shown: never what could be a secret."""
    word = re.match(r"[A-Za-z_][\w.-]*", text)
    return (
        f"It begins with '{word[0][:40]}'."
        if word and "=" in text
        else "There is no = behind a name in it."
    )


def _refuse_for_prefect(name: str, text: str, place: str) -> None:
    """ConfigError for what python-dotenv reads otherwise than a shell and we do; of a value whose
    end it does not see, it takes the lines below for the rest, whoever they are for.
    """
    single, double = _SINGLE.fullmatch(text), _DOUBLE.fullmatch(text)
    if single and single[1].endswith("\\"):
        raise ConfigError(
            f"{place}: Prefect, which reads this file too, takes a backslash at the end of '...' "
            'for a part of the quote. Write "...\\\\", between double quotes and twice.'
        )
    if not name.startswith("PREFECT_"):
        return
    bare = _BARE.fullmatch(text)
    if (
        (single and _DOTENV_SINGLE.search(single[1]))
        or (double and _DOTENV_DOUBLE.search(double[1]))
        or (bare and _DOTENV_BARE.search(bare[1] or ""))
    ):
        raise ConfigError(
            f"{place}: Prefect, which reads this file too, takes backslashes, ${{...}} and special "
            "blanks otherwise than a shell. Choose a value without them."
        )


def _value(text: str, place: str) -> str:
    for form in (_SINGLE, _DOUBLE, _BARE):
        found = form.fullmatch(text)
        if found is not None:
            value = found[1] or ""
            if form is _BARE and _SHELL_BARE.search(value):
                raise ConfigError(
                    f"{place}: a shell reads $ & ; | ~ ( ) < > \\ and back-quotes otherwise. Put "
                    "'...' around the value."
                )
            if form is _DOUBLE and _SHELL_DOUBLE.search(value):
                raise ConfigError(
                    f"{place}: between double quotes a shell expands $ and back-quotes. Use "
                    "'...', or a backslash before each."
                )
            return _ESCAPED.sub(r"\1", value) if form is _DOUBLE else value
    if text[:1] in {"'", '"'}:
        raise ConfigError(
            f"{place}: the value begins with {text[0]} and does not end with one. Close it on the "
            "same line."
        )
    raise ConfigError(
        f"{place}: a value with spaces or quotes in it has to stand in quotes: NAME='a value'"
    )
