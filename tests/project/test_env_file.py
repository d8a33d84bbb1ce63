"""The team's settings come from one `.env`: what a shell reads in it, we read, and a wrong line is
named without its value.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dotenv
import hypothesis.strategies as st
import pytest
import toys
from hypothesis import given, settings

from engine.errors import ConfigError
from engine.project.env_file import read_env_file

GOOD = """\
# a comment

PLAIN=value
export EXPORTED=yes
  INDENTED=1
EMPTY=
COMMENT=value # what it is
HASH=a#b
SINGLE='two words # $HOME "x"'
DOUBLE="two \\"words\\" \\\\ \\$HOME"
BEHIND='quoted'   # and a comment
URL=postgresql+psycopg://user:pa%40ss@host:5432/name
EQUALS=a=b==
TWICE=first
TWICE=second
SIGNS='$a & b; c | ~ ( < > ) ` \\ \u2028 \x0c'
TILDE=http://host/~me
WORD=a{b}*?[c]!%^+\u00a0d
"""


def write(folder, text):
    (folder / ".env").write_text(text, encoding="utf-8")
    return folder / ".env"


def test_values_quotes_comments_and_export(tmp_path):
    assert read_env_file(write(tmp_path, GOOD)) == {
        "PLAIN": "value",
        "EXPORTED": "yes",
        "INDENTED": "1",
        "COMMENT": "value",
        "HASH": "a#b",
        "SINGLE": 'two words # $HOME "x"',
        "DOUBLE": 'two "words" \\ $HOME',
        "BEHIND": "quoted",
        "URL": "postgresql+psycopg://user:pa%40ss@host:5432/name",
        "EQUALS": "a=b==",
        "TWICE": "second",
        "SIGNS": "$a & b; c | ~ ( < > ) ` \\ \u2028 \x0c",
        "TILDE": "http://host/~me",
        "WORD": "a{b}*?[c]!%^+\u00a0d",
    }


def test_a_shell_reads_the_same(tmp_path):
    file = write(tmp_path, GOOD)
    shell = read_by_a_shell(file)
    assert {name: shell[name] for name in read_env_file(file)} == read_env_file(file)


def test_prefect_reads_the_same(tmp_path):
    """By python-dotenv, where `prefect` is typed by hand; what it takes otherwise is refused."""
    plain = GOOD.replace('DOUBLE="two \\"words\\" \\\\ \\$HOME"', 'DOUBLE="two \\"words\\" \\\\"')
    ours = read_env_file(file := write(tmp_path, plain))
    theirs = dotenv.dotenv_values(file)
    assert {name: theirs[name] for name in ours} == ours and ours["DOUBLE"] == 'two "words" \\'


def read_by_a_shell(file):
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    said = subprocess.run(
        ["sh", "-c", f"set -a; . {file}; exec {sys.executable} -c '{code}'"],
        capture_output=True,
        text=True,
    )
    return json.loads(said.stdout)


SIGNS = st.text("ab #=$'\"\\{}~*\t\u00a0\u00e9", max_size=8)


@given(SIGNS)
@settings(max_examples=400)
def test_whatever_is_taken_for_prefect_dotenv_takes_alike(text):
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), f"PREFECT_A={text}\nPREFECT_B=2\n")
        try:
            ours = read_env_file(file)
        except ConfigError:
            return
        theirs = {name: value for name, value in dotenv.dotenv_values(file).items() if value}
        assert ours == theirs and ours["PREFECT_B"] == "2"


@pytest.mark.parametrize(
    "line",
    ["A='hunter2\\\\b'", "A='${hunter2}'", 'A="hunter2\\n"', 'A="hunter2\\$"', "A=hunter2\u00a0#x"],
)
def test_what_prefect_would_take_otherwise_is_refused_for_prefect_alone(tmp_path, line):
    assert "hunter2" in read_env_file(write(tmp_path, f"{line}\n"))["A"]
    with pytest.raises(ConfigError, match="line 1: PREFECT_A: Prefect, which reads") as caught:
        read_env_file(write(tmp_path, f"PREFECT_{line}\n"))
    assert "hunter2" not in str(caught.value)


def test_a_value_that_would_hide_the_lines_below_is_refused_for_all(tmp_path):
    with pytest.raises(ConfigError, match=r"line 1: A: .*between double quotes and twice"):
        read_env_file(write(tmp_path, "A='hunter2\\'\nPREFECT_API_AUTH_STRING='x:y'\n"))
    file = write(tmp_path, 'A="hunter2\\\\"\nB=1\n')
    assert read_env_file(file) == {"A": "hunter2\\", "B": "1"} == dotenv.dotenv_values(file)
    assert read_by_a_shell(file)["A"] == "hunter2\\"


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfA=1\r\nB='2'\r\n")
    assert read_env_file(tmp_path / ".env") == {"A": "1", "B": "2"}


def test_no_file_is_no_settings(tmp_path):
    assert read_env_file(tmp_path / ".env") == {}


@pytest.mark.parametrize(
    "line, words",
    [
        ("hunter2", "There is no = behind a name"),
        ("NAME = hunter2", "without spaces around =. It begins with 'NAME'"),
        ("9LIVES=hunter2", "expected NAME=value"),
        ("A-B=hunter2", "It begins with 'A-B'"),
        ("NAME='hunter2", "NAME: the value begins with ' and does not end with one"),
        ('NAME="hunter2', 'NAME: the value begins with " and does not end with one'),
        ("NAME=hunter2 hunter2", "has to stand in quotes"),
        *((f"NAME=hunter2{sign}x", "NAME: a shell reads") for sign in "$&;|\\(<>)`"),
        ("NAME=~hunter2", "NAME: a shell reads"),
        ("NAME=a:~hunter2", "NAME: a shell reads"),
        ('NAME="hunter2 $x"', "NAME: between double quotes a shell expands"),
        ('NAME="hunter2 \\\\`x`"', "NAME: between double quotes a shell expands"),
        ("NAME='hunter2'#x", "NAME: the value begins with '"),
    ],
)
def test_a_wrong_line_is_named_and_its_value_is_not_shown(tmp_path, line, words):
    with pytest.raises(ConfigError, match=r"\.env, line 2: ") as caught:
        read_env_file(write(tmp_path, f"A=1\n{line}\n"))
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / ".env").write_bytes("NAME=größe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="text file in UTF-8"):
        read_env_file(tmp_path / ".env")


def test_the_example_sets_nothing_and_every_line_of_it_works(tmp_path):
    example = toys.ROOT / ".env.example"
    assert read_env_file(example) == {}
    shutil.copy(example, tmp_path / ".env")
    lines = (tmp_path / ".env").read_text().splitlines()
    settings = [
        line.removeprefix("#") for line in lines if line.startswith("#") and "=" in line.split()[0]
    ]
    assert len(settings) > 20
    assert len(read_env_file(write(tmp_path, "\n".join(settings)))) == len(settings)


# What each command does with a project whose `.env` has a wrong line: it names it, before anything
# else happens.
ENTRIES = {
    "run": ["-m", "engine", "run"],
    "ui": ["-m", "engine", "ui"],
    "deploy": ["-m", "engine", "deploy"],
    "worker": ["-m", "engine", "worker"],
    "train": ["-m", "engine", "train", "data=nowhere.yaml"],
    "val": ["-m", "engine", "val", "model=nowhere.pt"],
    "tune": ["-m", "engine", "tune"],
    "trace": ["-m", "engine", "trace", "dvc.yaml"],
    "check": ["-m", "engine", "check"],
    "a stage under dvc repro": ["-m", "engine.stages", "prepare"],
    "the sender": ["-m", "engine.tracking.sender"],
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_reads_it(tmp_path, entry):
    root = toys.make_workspace(tmp_path / "project")
    write(root, "A=1\nnonsense\n")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "DETECTFLOW_"))
    }
    env["PYTHONPATH"] = str(toys.ROOT)
    done = subprocess.run(
        [sys.executable, *ENTRIES[entry]],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert f"{root / '.env'}, line 2: expected NAME=value" in done.stderr
