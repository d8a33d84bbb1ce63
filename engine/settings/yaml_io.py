"""YAML as people mean it: 1e-3 is a number, a key that is there twice is an error, and a few lines
stay a few values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

MAX_REPEATED = 10_000  # values that aliases may add to a document
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}


class Refusing:
    """For a loader of PyYAML: what it cannot read is a `yaml.YAMLError`. Its own constructors let
    an IndexError out for `!!float`, a ValueError for 2026-13-45, an AttributeError for `!!timestamp
    x`, and so on.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        with _refusing(node.start_mark):
            return super().construct_object(node, deep)

    def construct_document(self, node: yaml.Node) -> Any:
        with _refusing(node.start_mark):
            return super().construct_document(node)


class NumberLoader(Refusing, yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number, as people mean it (YAML 1.1 wants 1.0e-3)."""

    def fetch_more_tokens(self) -> Any:  # "\\UFFFFFFFF": no such character
        with _refusing(self):
            return super().fetch_more_tokens()


@contextmanager
def _refusing(place: Any) -> Iterator[None]:
    """RefusedYaml for what PyYAML lets out; place: has the `line`, from 0."""
    try:
        yield
    except (yaml.YAMLError, RecursionError):
        raise
    except Exception as error:
        raise RefusedYaml(f"line {place.line + 1}: a value that cannot be read: {error}") from None


NumberLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


class Unquoted(str):
    """Text of a value that YAML itself takes for a number or a date, as written: `0123`, which it
    reads as 83.
    """


class RefusedYaml(yaml.YAMLError):
    """YAML that can be parsed, but is ambiguous."""


def read_yaml(text: str, as_written: Collection[str] = ()) -> Any:
    """A YAML document as plain data.

    as_written: dotted paths whose numbers and dates, also those in a list or mapping there, are
    kept as `Unquoted` text.

    Raises:
        yaml.YAMLError: it is not valid, has a key twice in one mapping, or aliases that would make
            it far larger.
    """
    loader = NumberLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check(root, loader)
        for path in as_written:
            _keep_text(root, path.split("."))
        return loader.construct_document(root)
    except RecursionError:
        raise RefusedYaml("nested too deeply") from None
    finally:
        loader.dispose()


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check(root: yaml.Node, loader: NumberLoader) -> None:
    """RefusedYaml for a key that is there twice, and for aliases of aliases; also for an anchor
    that holds itself.
    """
    known, nodes, aliases = {id(root)}, [root], False
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, loader)
        for inner in _inner(node):
            aliases = aliases or id(inner) in known
            if id(inner) not in known:
                known.add(id(inner))
                nodes.append(inner)
    left, nodes = len(known) + MAX_REPEATED, [root] if aliases else []
    while nodes:
        left -= 1
        if left < 0:
            raise RefusedYaml(
                f"its aliases (*name) repeat more than {MAX_REPEATED:,} values; write them out"
            )
        nodes += _inner(nodes.pop())


def _check_keys(node: yaml.MappingNode, loader: NumberLoader) -> None:
    lines: dict[Any, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        value, line = loader.construct_object(key), key.start_mark.line + 1
        if not isinstance(value, Hashable):  # !!seq x: PyYAML refuses it as a key
            continue
        if value in lines:
            raise RefusedYaml(
                f"line {line}: key '{key.value}' is there twice, first in line {lines[value]}; "
                "remove one"
            )
        lines[value] = line


def _keep_text(node: yaml.Node, path: list[str]) -> None:
    """Make text of the numbers at `path` below `node`."""
    if path:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == path[0]:
                _keep_text(value, path[1:])
        return
    values = (
        [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else _inner(node)
    )
    for value in values or [node]:
        if isinstance(value, yaml.ScalarNode) and value.tag in _NUMBERS:
            value.tag = "!unquoted"


NumberLoader.add_constructor("!unquoted", lambda loader, node: Unquoted(node.value))


def key_lines(text: str) -> dict[str, int]:
    """Line (from 1) of every value of a YAML text by its dotted path: {"train": 1, "train.lr0": 3,
    "names.0": 7}.

    What is inside an anchor counts once, where it is first used. {} where the text is not valid
    YAML.
    """
    try:
        root = yaml.compose(text, Loader=NumberLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    lines: dict[str, int] = {}
    nodes, seen = [("", root)], {id(root)}
    while nodes:
        prefix, node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            inner = [
                (key.value, key, value)
                for key, value in node.value
                if isinstance(key, yaml.ScalarNode)
            ]
        elif isinstance(node, yaml.SequenceNode):
            inner = [(str(index), value, value) for index, value in enumerate(node.value)]
        else:
            continue
        for key, place, value in inner:
            lines[f"{prefix}{key}"] = place.start_mark.line + 1
            if id(value) not in seen:  # an anchor may hold itself
                seen.add(id(value))
                nodes.append((f"{prefix}{key}.", value))
    return lines


def nearest_line(lines: dict[str, int], key: str) -> int | None:
    """Line of `key`, else of the innermost section around it that has one, else None."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key)


def lines_of_file(path: Path | str) -> dict[str, int]:
    """`key_lines` of a file; {} where it cannot be read."""
    try:
        return key_lines(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        return {}


def dumped_as(kind: type, plain: Callable[[Any], Any]) -> None:
    """From now on PyYAML writes a `kind` as it writes the plain value that `plain` makes of it;
    its safe dumpers refuse classes that they do not know, also those of text and dictionaries.
    """
    names = ("SafeDumper", "CSafeDumper", "Dumper", "CDumper")
    dumpers = [getattr(yaml, name) for name in names if hasattr(yaml, name)]
    for dumper in (yaml.representer.SafeRepresenter, yaml.representer.Representer, *dumpers):
        if "yaml_representers" in vars(dumper):  # else it takes over that of its base
            dumper.add_representer(kind, lambda writer, value: writer.represent_data(plain(value)))
