"""What of a source counts: pairs of texts that do the same, and pairs that do not."""

import abc
import ast
import dataclasses
import importlib
import inspect
from pathlib import Path
from textwrap import dedent

import pytest

from engine.code.syntax import PLAIN_BASES, Import, SourceError, read_definitions, read_source

ENGINE = Path(__file__).resolve().parents[2] / "engine"

BASE = '''
    """What it is."""
    from __future__ import annotations
    from typing import TYPE_CHECKING
    import logging
    import math
    from engine.errors import DataError, nearest
    if TYPE_CHECKING:
        from engine.core.trainer import BaseTrainer

    log = logging.getLogger("x")
    _SHOWN = 5

    def area(width, height):
        """Pixels."""
        if width < 0:
            log.warning("width %s", width)
            raise DataError(f"width {width}: {_reported(width)}{nearest(str(width), ['1'])}")
        return width * height

    def _reported(width):
        lines = []
        for number in range(_SHOWN):
            lines.append(str(number))
        return ", ".join(lines)

    @dataclass
    class Field:
        x: int = 0
        note: str = ""

    class Box:
        x = 0
        side_px: float

        def side(self):
            if self.x < 0:
                problem = self._problem()
                raise ValueError(problem)
            return math.sqrt(self.x)

        def _problem(self):
            return f"{self.x} is negative"
'''

SAME = {
    "a comment": ("return width * height", "return width * height  # pixels"),
    "a docstring": ('"""Pixels."""', '"""In pixels, whole ones."""'),
    "no docstring": ('        """Pixels."""\n', ""),
    "brackets and lines": (
        "return width * height",
        "return (\n            width\n            * height\n        )",
    ),
    "other quotes": ('"width %s"', "'width %s'"),
    "annotations": ("def area(width, height):", "def area(width: int, height: 'int') -> int:"),
    "an annotated local": ("lines = []", "lines: list[str] = []"),
    "an annotation of a plain class": ("side_px: float", "side_px: int"),
    "one more": ("side_px: float", "side_px: float\n        corner: int"),
    "the text of an error": ('f"width {width}: ', 'f"the width is {width}: '),
    "the text of a log line": ('"width %s", width', '"%s is a width", width'),
    "a log line less": ('            log.warning("width %s", width)\n', ""),
    "a helper of messages": ('", ".join', '"; ".join'),
    "a number of a helper": ("_SHOWN = 5", "_SHOWN = 7"),
    "a method for messages": ("is negative", "is below zero"),
    "a local for messages": (
        "problem = self._problem()",
        "problem = f'{self.x}: ' + self._problem()",
    ),
    "an import for messages": ("import DataError, nearest", "import nearest, DataError"),
    "an import for type checkers": (
        "trainer import BaseTrainer",
        "trainer import BaseTrainer as B",
    ),
}
OTHER = {
    "an operator": ("width * height", "width + height"),
    "a condition": ("if width < 0", "if width <= 0"),
    "another exception": ("raise DataError(f", "raise TypeError(f"),
    "an error less": ("raise ValueError(problem)", "pass"),
    "a default": ("x: int = 0", "x: int = 1"),
    "the type of a field": ("x: int = 0", "x: float = 0"),
    "a field more": ("x: int = 0", "x: int = 0\n        y: int = 0"),
    "an imported function": ("import math", "import cmath as math"),
    "a new function": ("_SHOWN = 5", "_SHOWN = 5\n    def more(): return 1"),
    "a call": ("return math.sqrt", "print(1, file=open('x'))\n            return math.sqrt"),
    "a use of the helper": ("return width * height", "return width * height * len(_reported(1))"),
}


def read(text, is_package=False):
    return read_source(dedent(text), is_package)


@pytest.mark.parametrize("old, new", SAME.values(), ids=SAME)
def test_the_same(old, new):
    assert old in BASE
    assert read(BASE.replace(old, new)).digest == read(BASE).digest


@pytest.mark.parametrize("old, new", OTHER.values(), ids=OTHER)
def test_another(old, new):
    assert old in BASE
    assert read(BASE.replace(old, new)).digest != read(BASE).digest


@pytest.mark.parametrize(
    "text",
    [
        # A result is not a message, though it looks like one.
        "def f(out): print({}, file=out)",
        "def f(queue):\n    gone = queue.pop({})\n    log.info('%s', gone)",
        "def f(x):\n    log.info(y := {})\n    return y",
        "def f(x):\n    raise Smaller({})",  # may carry the batch that fits
        "def f(self, x):\n    self.report.add('kind', 'file', g({}))",
        "@register\ndef _f(): return {}",  # a decorator may hand it on
        "def _f(): return {}\nTABLE = {{'f': _f}}",
        "class A:\n    def _step(self): return {}",  # another module may call or override it
        "def f(x): return getattr(x, '_g')\ndef _g(): return {}",
        "_KNOWN = [{}]\ndef f(): log.info(_KNOWN); _KNOWN.append(1)",
        "def f():\n    global seen\n    seen = {}\n    log.info('%s', seen)",
        "def f():\n    where = open('x', {})\n    raise ValueError(where)",
        "def f(x):\n    a, x.size = {}, 1\n    log.info(a)",
        "def f(x):\n    a = {}\n    b = a\n    log.info(b)\n    return b",
        "def shown(): return {}",  # nobody here uses it: others may
        "def run(): return {}\ndef f(x): log.info(x.run)",  # an attribute, not this function
        "class A:\n    def size(self): return {}\n    def f(self): log.info(self.size())",
        "class A(Unknown):\n    x: Literal[{}]",  # a base that may read it
        "class A(metaclass=M):\n    x: Literal[{}]",
        "from torch.nn import Mapping\nclass A(Mapping):\n    x: Literal[{}]",
        "class A(NamedTuple):\n    x: int\nclass B(A):\n    y: Literal[{}]",
        "x = Entry('n', title='{}')\ndef f(): return x.title",
        "x = entry('n', title='{}')",  # a function may do anything with it
    ],
)
def test_what_may_count_does(text):
    assert read(text.format(1)).digest != read(text.format(2)).digest


def test_locals_that_only_lead_to_a_message_are_none():
    one = """
        def check(size, step):
            if size % step:
                below, above = size // step * step, (size // step + 1) * step
                near = f"{below}" if below else f"{above}"
                near = f"{near} px"
                raise ConfigError(f"try {near}")
            return size
    """
    assert read(one).digest == read(one.replace(" px", " pixels")).digest
    assert read(one).digest == read(one.replace("+ 1) * step", "+ 2) * step")).digest
    assert read(one).digest != read(one.replace("if size % step", "if size % 2")).digest


def test_what_is_shown_of_an_entry_counts_where_somebody_asks_for_it():
    one = "VOC = ReaderKind(name='voc', title='Pascal VOC', open=Voc)"
    assert read(one).digest == read(one.replace("Pascal", "PASCAL")).digest
    assert read(one).left_out == ("title",)
    kept = read_source(one, keep=frozenset({"title"}))
    assert kept.digest != read_source(one.replace("Pascal", "P"), keep=frozenset({"title"})).digest


def test_a_public_helper_of_messages_is_named_for_others_to_ask_for():
    one = "KEPT, OUT = 'kept', 'out'\ndef f(x): raise DataError(KEPT, OUT, kind_of(x))\n"
    one += "def kind_of(x): return kind_of(x[0]) if x else 'none'\n"
    assert read(one).left_out == ("KEPT", "OUT", "kind_of")
    assert read(one).digest == read(one.replace("'none'", "'nothing'")).digest
    for name in ("KEPT", "kind_of"):
        keep = frozenset({name})
        other = one.replace("'none'", "'nothing'").replace("'kept'", "'stays'")
        assert read_source(one, keep=keep).digest != read_source(other, keep=keep).digest


def test_methods_that_nobody_calls_are_gone_with_what_they_import():
    one = "from a import loss\nfrom b import decode\nclass F:\n"
    one += "    def criterion(self): return loss(1)\n    def boxes(self): return decode(2)\n"
    without = frozenset({"*.criterion"})
    assert read_source(one, without=without).imports == (Import("b", "decode", "decode"),)
    assert read_source(one, without=without) == read_source(
        one.replace("loss(1)", "loss(3)"), without=without
    )
    assert read(one).digest != read(one.replace("loss(1)", "loss(3)")).digest


def test_definitions_without_influence_are_gone_by_their_path():
    one = "from a import draw\nEVENTS = {'x': 'text'}\nclass A:\n    word = 'images'\n"
    one += "    def plot(self): draw(1)\nclass B:\n    word = 'images'\ndef plot(): return 1\n"
    without = frozenset({"EVENTS", "A.word", "A.plot"})
    digest = read_source(one, without=without).digest
    assert read_source(one, without=without).imports == ()
    for old, new in (
        ("'text'", "'t'"),
        ("draw(1)", "draw(2)"),
        ("A:\n    word = 'im", "A:\n    word = 'I"),
    ):
        assert read_source(one.replace(old, new), without=without).digest == digest
    for old, new in (("return 1", "return 2"), ("B:\n    word = 'im", "B:\n    word = 'I")):
        assert read_source(one.replace(old, new), without=without).digest != digest


@pytest.mark.parametrize(
    "decorator, counts",
    [
        *[("functools.singledispatch", True), ("size.register", True), ("torch.jit.script", True)],
        *[("validate_call(config=1)", True), ("unknown", True)],
        *[("staticmethod", False), ("torch.no_grad()", False), ("functools.cache", False)],
        *[("size.setter", False), ("contextlib.contextmanager", False)],
    ],
)
def test_annotations_count_where_a_decorator_may_read_them(decorator, counts):
    one = f"@{decorator}\ndef size(x: INT, *rest: INT) -> INT: return 1\n"
    for old, new in (("x: INT", "x: list"), ("*rest: INT", "*rest: list"), ("-> INT", "-> list")):
        assert (read(one).digest != read(one.replace(old, new)).digest) == counts, old
    inner = f"@{decorator}\ndef f(): \n    def size(x: INT): return 1\n    return size\n"
    assert read(inner).digest == read(inner.replace("INT", "list")).digest


@pytest.mark.parametrize(
    "decorator, counts", [("dataclass(frozen=True)", False), ("torch.jit.script", True)]
)
def test_annotations_of_methods_count_where_a_decorator_of_the_class_may_read_them(
    decorator, counts
):
    one = f"@{decorator}\nclass A:\n    def size(self, x: INT): return 1\n"
    assert (read(one).digest != read(one.replace("INT", "list")).digest) == counts


def test_the_default_of_a_kind_counts_by_its_name_too():
    one = 'KINDS = {"dark": Kind("image that is dark", advice="look", default="error")}'
    assert read(one).digest != read(one.replace('"error"', '"warn"')).digest
    assert read(one).digest == read(one.replace('"look"', '"look at it"')).digest


@pytest.mark.parametrize(
    "text, public",
    [
        ("__all__ = ['a', 'b']", ("a", "b")),
        ("__all__ = ('a',)\n__all__ += ['b']", ("a", "b")),
        ("__all__: list[str] = ['a']", ("a",)),
        ("__all__ = [p.stem for p in HERE]", ("*",)),
        ("__all__ = ['a']\n__all__.append(b)", ("*", "a")),
        ("x = 1", ()),
    ],
)
def test_names_that_a_star_takes(text, public):
    assert read(text).public == public


def test_what_a_star_takes_counts_where_it_is_kept():
    one, kept = "__all__ = ['a', 'b']", frozenset({"__all__"})
    assert read(one).digest == read("").digest
    assert read_source(one, keep=kept) != read_source("__all__ = ['a']", keep=kept)


def test_bases_that_are_said_to_read_no_annotations_read_none():
    for module, names in PLAIN_BASES.items():
        for name in names:
            found = getattr(importlib.import_module(module), name)
            assert type(found) in (type, abc.ABCMeta) or module == "typing", name
            assert not dataclasses.is_dataclass(found) and "model_fields" not in dir(found)
            ours = [k for k in found.__mro__ if k.__module__.startswith("engine")]
            sources = [inspect.getsource(k) for k in ours]
            assert not any(w in text for w in ("__annotations__", "type_hints") for text in sources)


def test_what_only_messages_use_is_named_and_the_whole_still_has_it():
    one, other = read(BASE), read(BASE.replace('", ".join', '"; ".join'))
    assert set(one.left_out) == {"_reported", "_SHOWN", "_problem"}
    assert one.digest == other.digest and one.whole != other.whole


def test_details_of_findings_and_the_texts_of_their_table_are_messages():
    one = """
        KINDS = {"dark": Kind("image that is dark", "warn", "look at it", drop="left out")}
        def f(findings, n):
            detail = f"{n} of them"
            return findings.add("dark", "a.jpg", detail)
    """
    assert read(one).digest == read(one.replace("of them", "are")).digest
    assert read(one).digest == read(one.replace("look at it", "look")).digest
    assert read(one).digest != read(one.replace('"warn"', '"drop"')).digest
    assert read(one).digest != read(one.replace(', drop="left out"', "")).digest
    assert read(one).digest != read(one.replace('add("dark"', 'add("light"')).digest


def test_imports_are_found_everywhere_but_for_type_checkers():
    found = read(
        "import a.b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from .d import e as g\n"
    )
    assert found.imports == (Import("a.b"), Import(".d", "e", "g"))
    assert read("TABLE = {'x': 'engine.models.x:X'}").mentions == ("engine.models.x:X",)


def test_a_package_that_only_hands_on_does_nothing():
    assert read("'''Doc.'''\nfrom a import b\n__all__ = ['b']", is_package=True).digest == ""
    started = read("from a import b\nfrom c import d\nb.start()", is_package=True)
    assert started.digest != "" and started.needed == (Import("a", "b", "b"),)
    assert started.digest != read("from e import b\nb.start()", is_package=True).digest
    assert read("import a.plugins", is_package=True).needed == (Import("a.plugins"),)


def test_definitions_count_with_what_they_use_and_not_with_their_neighbours():
    text = dedent("""
        from engine.settings.base import Frozen
        from engine.far import helper
        LIMIT = 3
        def load(x): return _inner(x) + LIMIT
        def _inner(x): return helper(x)
        def other(x): return 1
        class Settings(Frozen):
            size: int = 3
            def half(self): return self.size / 2
            def _checked(self): return 1
    """)
    load, imports = read_definitions(text, {"load"})
    assert imports == (Import("engine.far", "helper", "helper"),)
    for old, new in (("LIMIT = 3", "LIMIT = 4"), ("helper(x)", "helper(2)")):
        assert read_definitions(text.replace(old, new), {"load"})[0] != load
    for old, new in (("return 1", "return 2"), ("size / 2", "size / 3")):
        assert read_definitions(text.replace(old, new), {"load"})[0] == load
    settings, _ = read_definitions(text, {"Settings"})
    assert read_definitions(text.replace("size / 2", "size / 3"), {"Settings"})[0] != settings
    # Values of settings count as values, wherever they come from.
    assert read_definitions(text.replace("int = 3", "int = 4"), {"Settings"})[0] == settings


def test_no_python_is_said_so():
    with pytest.raises(SourceError, match="line 1"):
        read("def f(:")


def test_every_file_of_ours_means_the_same_however_python_writes_it():
    for file in sorted(ENGINE.rglob("*.py")):
        text, package = file.read_text(), file.name == "__init__.py"
        again = ast.unparse(ast.parse(text))
        assert read_source(again, package) == read_source(text, package), file
