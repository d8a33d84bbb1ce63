"""Where in a YAML file something stands: a message can say the line."""

from __future__ import annotations

from pathlib import Path

import yaml


def key_lines(text: str) -> dict[str, int]:
    """Line (from 1) of every value of a YAML text by its dotted path: {"train": 1, "train.lr0": 3, "names.0": 7}.

    What is inside an anchor is told once, where it is first used. {} where the text is not valid YAML.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    lines: dict[str, int] = {}
    nodes, told = [("", root)], {id(root)}
    while nodes:
        prefix, node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            inner = [(key.value, key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        elif isinstance(node, yaml.SequenceNode):
            inner = [(str(index), value, value) for index, value in enumerate(node.value)]
        else:
            continue
        for key, place, value in inner:
            lines[f"{prefix}{key}"] = place.start_mark.line + 1
            if id(value) not in told:  # an anchor may hold itself
                told.add(id(value))
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
