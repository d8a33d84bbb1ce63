"""Edits of a copy of the engine's sources, and which stages they make stale."""

import ast
import re
import shutil
from pathlib import Path

from engine.code.closure import Sources
from engine.code.rooms import ROOMS, code_of_stage

ROOT = Path(__file__).resolve().parents[2]


class Copy:
    """The engine's sources in a folder of their own; `stale` compares with how they were copied."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cache = folder / "code.json"
        shutil.copytree(
            ROOT / "engine", folder / "engine", ignore=shutil.ignore_patterns("__pycache__")
        )
        self.clean = self.records()

    def records(self) -> dict[str, dict[str, str]]:
        """stage -> module -> digest."""
        sources = Sources.below(self.folder, self.cache)
        found = {stage: code_of_stage(stage, sources, {"yolov8"}) for stage in ROOMS}
        sources.keep()
        return found

    def stale(self, *edits) -> set[str]:
        """Stages whose code is another after `edits`, which are taken back. An edit is (file below
        engine, text -> text).
        """
        before = {}
        try:
            for name, edit in edits:
                path = self.folder / "engine" / name
                before.setdefault(path, path.read_text())
                text = edit(path.read_text())
                assert text != path.read_text(), f"{name}: the edit changes nothing"
                ast.parse(text)
                path.write_text(text)
            now = self.records()
        finally:
            for path, text in before.items():
                path.write_text(text)
        return {stage for stage in ROOMS if now[stage] != self.clean[stage]}


def comment(text):
    return f"{text}\n# a\n"


def docstring(text):
    """Another first sentence of the module."""
    return re.sub(r'^"""', '"""Now explained better. ', text)


def reformatted(text):
    """As Python itself writes it: no comments, other quotes, line breaks and brackets."""
    return ast.unparse(ast.parse(text))


def annotated(text):
    """Every argument without annotation gets one."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg not in {"self", "cls"}:
            node.annotation = ast.parse("dict[str, 'Whatever']").body[0].value
    return ast.unparse(ast.fix_missing_locations(tree))


def messages(text):
    """Every text in an error that is raised, and in a log line, ends in `!`."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        call = getattr(node, "exc", None) if isinstance(node, ast.Raise) else None
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            owner = ast.unparse(node.value.func)
            call = node.value if re.match(r"(self\.)?(log|logger|warnings)\.", owner) else call
        for arg in call.args if isinstance(call, ast.Call) else ():
            if isinstance(arg, ast.JoinedStr):
                arg.values.append(ast.Constant(value="!"))
            elif isinstance(arg, ast.Constant) and isinstance(arg.value, str):
                arg.value += "!"
    return ast.unparse(ast.fix_missing_locations(tree))


def number(scope=""):
    """The first number in the function, method or class `scope` is one more; without a scope, in
    the first function that has one.
    """

    def edit(text):
        tree = ast.parse(text)
        kinds = (ast.FunctionDef, ast.ClassDef)
        named = [n for n in ast.walk(tree) if isinstance(n, kinds) and n.name == scope]
        places = named if scope else [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        assert places, f"nothing is called {scope}"
        for place in places:
            for node in ast.walk(place):
                if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                    node.value += 1
                    return ast.unparse(tree)
        raise AssertionError(f"no number in {scope}")

    return edit


def call(scope):
    """The function `scope` calls something first."""

    def edit(text):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == scope:
                at = 1 if ast.get_docstring(node) else 0
                node.body.insert(at, ast.parse("id(0)").body[0])
                return ast.unparse(ast.fix_missing_locations(tree))
        raise AssertionError(f"nothing is called {scope}")

    return edit


def without(name):
    """The function or class `name` is gone."""

    def edit(text):
        tree = ast.parse(text)
        kept = [node for node in tree.body if getattr(node, "name", None) != name]
        assert len(kept) == len(tree.body) - 1, f"nothing is called {name}"
        tree.body = kept
        return ast.unparse(tree)

    return edit


def added(source):
    """Something more at the end."""
    return lambda text: f"{text}\n\n{source}\n"


def replaced(old, new):
    def edit(text):
        assert old in text, f"{old!r} is not in it"
        return text.replace(old, new, 1)

    return edit
