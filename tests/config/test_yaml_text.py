"""YAML files: what is said twice is refused with its line, and a few lines cannot become very many
values.
"""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.settings.base import load_yaml
from engine.settings.yaml_io import Unquoted, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lr0: 1\nepochs: 3\nlr0: 2\n",
            "line 3: key 'lr0' is there twice, first in line 1; remove one",
        ),
        ("train:\n  lr0: 1\n  'lr0': 1\n", "line 3: key 'lr0' is there twice, first in line 2"),
        ("names:\n  0: cat\n  0x0: dog\n", "line 3: key '0x0' is there twice, first in line 2"),
        ("x: [{a: 1, a: 1}]\n", "line 1: key 'a' is there twice"),
        (BOMB, "aliases (*name) repeat more than 10,000 values"),
        ("a: &a [1, *a]\n", "aliases (*name) repeat more than 10,000 values"),
        ("a: &a {b: *a}\n", "aliases (*name) repeat more than 10,000 values"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: 2026-13-45\n", "a value that cannot be read: month must be in 1..12"),
        ("a: !!int x\n", "a value that cannot be read"),
        ("a: 1\n---\na: 2\n", "but found another document"),
        ("a: !!python/tuple [1]\n", "could not determine a constructor"),
    ],
)
def test_yaml_of_which_nobody_can_say_what_is_meant(text, message, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(file)
    assert message in str(caught.value) and str(caught.value).startswith(
        f"{file}: not valid YAML: "
    )


def test_anchors_and_merges_are_yaml():
    text = (
        "base: &b {lr0: 1, epochs: 3}\nmore: &m {<<: *b, epochs: 4}\nmost: {<<: *m, epochs: 5, x: "
        "*b}\n"
    )
    content = read_yaml(text)
    assert content["more"] == {"lr0": 1, "epochs": 4}
    assert content["most"] == {"lr0": 1, "epochs": 5, "x": {"lr0": 1, "epochs": 3}}
    assert len(read_yaml("\n".join(f"- {n}" for n in range(20_000)))) == 20_000, (
        "written out, it is as long as it looks"
    )
    assert read_yaml("") is None and read_yaml("lr0: 1e-3") == {"lr0": 0.001}


def test_numbers_are_kept_as_written_where_they_are_asked_for():
    text = (
        "names: [0123, 12:30, 1_000, 1e3, 2026-01-02, cat, '7', yes]\nn: 0123\nx: {names: {0: "
        "1_0}, n: [1]}\npath: 007\n"
    )
    content = read_yaml(text, ("names", "x.names", "path", "gone.names"))
    assert content["names"] == ["0123", "12:30", "1_000", "1e3", "2026-01-02", "cat", "7", True]
    assert [type(name) for name in content["names"][4:]] == [Unquoted, str, str, bool]
    assert (
        content["n"] == 83
        and content["x"] == {"names": {0: "1_0"}, "n": [1]}
        and content["path"] == "007"
    )
