"""Griffe extension: what readers of the code see, readers of the pages see too.

A comment at the end of an attribute's line is its documentation, and a method that overrides
another without a word of its own has the words of that one.
"""

from __future__ import annotations

import io
import tokenize
from typing import Any

import griffe


class CommentsAsDocstrings(griffe.Extension):
    """`best_epoch: int  # from 1` documents `best_epoch` where nothing else does."""

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is None and attr.lineno is not None and (text := comment_of(attr.source)):
            attr.docstring = griffe.Docstring(
                text, lineno=attr.lineno, endlineno=attr.endlineno, parent=attr
            )


class InheritedDocstrings(griffe.Extension):
    """`plot_metrics` of a subclass is what `plot_metrics` of its base says."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for module in _modules(pkg):
            for kind in module.classes.values():
                if not kind.is_alias:
                    _inherit(kind)


def comment_of(source: str) -> str:
    """The comment at the end of one statement, without `# `; empty where there is none or it speaks
    to a tool.
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source.strip()).readline))
    except (tokenize.TokenError, SyntaxError):
        return ""
    comments = [
        token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT
    ]
    return (
        comments[-1] if comments and not comments[-1].startswith(("fmt:", "type:", "noqa")) else ""
    )


def _modules(module: griffe.Module) -> list[griffe.Module]:
    return [
        module,
        *(
            deeper
            for inner in module.modules.values()
            if not inner.is_alias
            for deeper in _modules(inner)
        ),
    ]


def _inherit(kind: griffe.Class) -> None:
    for function in kind.functions.values():
        if function.is_alias or function.docstring is not None:
            continue
        above = (base.members.get(function.name) for base in kind.mro())
        function.docstring = next(
            (other.docstring for other in above if other is not None and other.docstring), None
        )
