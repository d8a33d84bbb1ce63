"""What the documentation takes from the code: tables of events, settings, commands, findings and
errors, a page per public class.

A page says where by a line `<!-- generated: NAME -->`. Tables follow it, up to `<!-- end -->`, and
are kept in the repository, where people read the pages as they are; a test holds them against the
code and `make docs-tables` (this file, run) renews them. The site has them from the code in any
case. Pages of classes, and their list, are made while MkDocs builds it, and by nobody else. MkDocs
calls the functions that begin with `on_`.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from engine import errors
from engine.cli import MODES
from engine.cli.help import OVERVIEW, usage_of
from engine.config import known_names
from engine.config.schema import SECTIONS, settings_of
from engine.core import events
from engine.datasets import formats
from engine.datasets.findings import KINDS
from engine.gates.table import GATES
from engine.model_formats.table import FORMATS

ENGINE = Path(events.__file__).parents[1]
EXTENSION = Path(__file__).with_name("comments.py")
DOCS = Path(__file__).parent
MARK = re.compile(
    r"^<!-- generated: (?P<name>.+) -->$(?P<kept>\n(?:(?!<!-- generated).*\n)*?<!-- end -->$)?",
    re.MULTILINE,
)
OF_THE_SITE = {"classes"}  # its links lead to pages that only the site has

EVENTS = {
    "trainer": events.TRAIN_EVENTS,
    "validator": events.VAL_EVENTS,
    "predictor": events.PREDICT_EVENTS,
    "exporter": events.EXPORT_EVENTS,
}

PACKAGES = ("engine.detect", "engine.export")  # every public name of these has a page
CLASSES: dict[
    str, tuple[str, ...]
] = {  # page -> what it shows; what a package has besides gets a page of its own
    "Detector": ("engine.yolo.Detector", "engine.yolo.YOLO"),
    "DetectionTrainer": ("engine.detect.DetectionTrainer",),
    "DetectionValidator": ("engine.detect.DetectionValidator",),
    "DetectionPredictor": ("engine.detect.DetectionPredictor",),
    "Results": (
        "engine.detect.Results",
        "engine.detect.results.Box",
        "engine.detect.result_boxes.Boxes",
    ),
    "Exporter": (
        "engine.export.Exporter",
        "engine.export.ExportReport",
        "engine.export.export",
        "engine.export.FORMATS",
    ),
    "BaseTrainer": ("engine.core.trainer.BaseTrainer",),
    "BaseValidator": ("engine.core.validator.BaseValidator",),
    "BasePredictor": ("engine.core.predictor.BasePredictor",),
    "TrainResult": ("engine.core.results.TrainResult",),
    "Callbacks": ("engine.core.events.Callbacks",),
    "World": ("engine.core.distributed.World",),
    "errors": ("engine.errors",),
    "types": ("engine.types",),
}


# Called by MkDocs ---------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of classes, and put the pages that are there into the patterns of the
    navigation.
    """
    for name, objects in class_pages().items():
        files.append(
            File.generated(
                config, f"reference/classes/{name}.md", content=class_page(name, objects)
            )
        )
    pages = sorted(file.src_uri for file in files.documentation_pages())
    config.nav = list(expanded(config.nav or [], pages, _named(config.nav or [])))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Replace the marks of a page by what they stand for."""
    return MARK.sub(lambda mark: generated(mark["name"], page.file.src_uri), markdown)


# In the repository --------------------------------------------------------------------------------


def renewed(markdown: str, where: str) -> str:
    """The text of a page with its tables as the code has them now."""

    def kept(mark: re.Match[str]) -> str:
        head = f"<!-- generated: {mark['name']} -->"
        if mark["name"] in OF_THE_SITE:
            return head
        return f"{head}\n\n{generated(mark['name'], where)}\n\n<!-- end -->"

    return MARK.sub(kept, markdown)


def outdated_pages() -> dict[Path, str]:
    """The pages whose tables are not what the code says -> what they should hold."""
    texts = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
    now = {page: renewed(text, page.name) for page, text in texts.items()}
    return {page: text for page, text in now.items() if text != texts[page]}


# Navigation ---------------------------------------------------------------------------------------


def expanded(entries: Iterable[Any], pages: list[str], taken: set[str]) -> Iterable[Any]:
    """Entries of a navigation with each pattern replaced by the pages that it fits and nothing
    before it has named.
    """
    for entry in entries:
        if isinstance(entry, Mapping):
            ((title, inner),) = entry.items()
            if isinstance(inner, str):
                yield entry
            elif found := list(expanded(inner, pages, taken)):
                yield {title: found}
        elif "*" not in entry:
            yield entry
        else:
            folder = entry.rpartition("/")[0]
            for page in pages:
                if (
                    fnmatch.fnmatch(page, entry)
                    and page.rpartition("/")[0] == folder
                    and page not in taken
                ):
                    taken.add(page)
                    yield page


def _named(entries: Iterable[Any]) -> set[str]:
    """Pages that are named without a pattern."""
    found: set[str] = set()
    for entry in entries:
        inner = list(entry.values())[0] if isinstance(entry, Mapping) else entry
        found |= {inner} if isinstance(inner, str) else _named(inner)
    return found


# What is generated --------------------------------------------------------------------------------


def generated(name: str, where: str) -> str:
    """The text of one mark; a mark that nothing stands for ends the build."""
    kind, _, of = name.partition(" ")
    makers: dict[str, tuple[Callable[[str], str], Iterable[str]]] = {
        "events": (events_table, EVENTS),
        "settings": (settings_tables, SECTIONS),
        "overview": (lambda _: _text(OVERVIEW), [""]),
        "usage": (usage, [""]),
        "errors": (errors_table, [""]),
        "classes": (classes_list, [""]),
        "findings": (findings_table, [""]),
        "formats": (formats_table, [""]),
        "annotation-formats": (annotation_formats_table, [""]),
        "gates": (gates_list, [""]),
        "known-names": (known_names_table, known_names.SECTIONS),
    }
    if kind not in makers or of not in makers[kind][1]:
        raise PluginError(
            f"{where}: nothing stands for '<!-- generated: {name} -->'; docs/hooks.py knows what "
            "does"
        )
    return makers[kind][0](of)


def events_table(executor: str) -> str:
    """The events of one executor, in their order."""
    rows = [(f"`{name}`", text) for name, text in EVENTS[executor].items()]
    return _table(("event", "what is true when it fires"), rows)


def settings_tables(section: str) -> str:
    """A table per group; each setting can be linked to as `#SECTION.KEY`."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for each in settings_of(SECTIONS[section]):
        key = f"{_anchor(f'{section}.{each.key}')}`{each.key}`"
        default = f"`{each.default}`" if each.default else "empty"
        groups.setdefault(each.group, []).append(
            (key, default, _escaped(each.kind), _escaped(each.meaning))
        )
    heads = ("setting", "default", "type, range", "meaning")
    parts = [
        f"### {section}: {group}\n\n{_table(heads, rows)}"
        if len(groups) > 1
        else _table(heads, rows)
        for group, rows in groups.items()
    ]
    return "\n\n".join(parts)


def usage(_: str) -> str:
    """What `detectflow help MODE` prints before the settings, for every mode."""
    return "\n\n".join(
        f"{_anchor(mode)}\n\n## detectflow {mode}\n\n{_text(usage_of(mode))}" for mode in MODES
    )


def errors_table(_: str) -> str:
    """The errors a user can cause, with their exit codes."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.EngineError)
    ]
    rows = [
        (f"`{kind.__name__}`", str(kind.exit_code), inspect.getdoc(kind) or "") for kind in kinds
    ]
    return _table(("error", "exit code", "what it is"), rows)


def findings_table(_: str) -> str:
    """Every kind of finding, with what each of its policies does; the default one in bold."""
    rows = []
    for name, kind in KINDS.items():
        marks = {kind.default: "**"}
        policies = (
            f"{(mark := marks.get(policy, ''))}{policy}{mark}: {text}"
            for policy, text in kind.choices().items()
        )
        rows.append((f"{_anchor(name)}`{name}`", _escaped(kind.what), "<br>".join(policies)))
    return _table(("kind", "what it is", "policies"), rows)


def formats_table(_: str) -> str:
    """The formats of exported files."""
    rows = [(f"`{each.name}`", f"`{each.suffix}`", each.about) for each in FORMATS.values()]
    return _table(("format", "file", "what it is for"), rows)


def known_names_table(section: str) -> str:
    """What other trainers call settings of a section: here, called otherwise, or not here."""
    schema, rows, same = SECTIONS[section], [], []
    for row in known_names.SECTIONS[section].values():
        if row.here == row.name and not row.how:
            same.append(f"`{row.name}`")
            continue
        link = f"[`{row.here}`](configuration.md#{section}.{row.here})"
        here = link if row.here in schema.model_fields else f"`{row.here}`" if row.here else "-"
        how = row.how[:1].upper() + row.how[1:].rstrip(".")
        rows.append((f"`{row.name}`", row.meaning, here, how))
    rows = [tuple(_escaped(c) if c[:1] != "[" else c for c in row) for row in rows]
    heads = ("there", "meaning there", "here", "what differs, or the way here")
    return f"The same here: {', '.join(same)}.\n\n{_table(heads, rows)}"


def gates_list(_: str) -> str:
    """What every gate asks of a model that is to become champion, in their order."""
    return "\n".join(
        f"- `{name}`: {' '.join(inspect.getdoc(gate).split())}" for name, gate in GATES.items()
    )


def annotation_formats_table(_: str) -> str:
    """Every annotation format: its name, `format:` and what is read of it."""
    rows = [
        (kind.title, f"`{kind.name}`", kind.read_as, "yes" if kind.write else "no")
        for kind in formats.KINDS.values()
    ]
    return _table(("format", "`format:`", "read", "written"), rows)


def classes_list(_: str) -> str:
    """Every page of a class, with the first sentence of its documentation."""
    rows = [
        (f"[`{name}`](classes/{name}.md)", _summary(_found(objects[0])))
        for name, objects in class_pages().items()
    ]
    return _table(("page", "what it is"), rows)


def class_pages() -> dict[str, tuple[str, ...]]:
    """Page -> dotted paths of what it shows."""
    shown = {path for objects in CLASSES.values() for path in objects}
    rest = [f"{package}.{name}" for package in PACKAGES for name in exported(package)]
    return CLASSES | {path.rpartition(".")[2]: (path,) for path in rest if path not in shown}


def class_page(name: str, objects: Iterable[str]) -> str:
    """Markdown: methods and functions for mkdocstrings, which imports no code to read its
    docstrings; attributes as a table.
    """
    parts = [f"# {name}"]
    for path in objects:
        found = _found(path)
        if found.is_class:
            methods = [
                each.name
                for each in found.all_members.values()
                if each.is_function and _is_public(each)
            ]
            # those of several classes have no order of their own
            methods = sorted(methods) if found.bases else methods
            parts.append(
                f"::: {path}\n    options: {{inherited_members: true, members: "
                f"[{', '.join(methods)}]}}"
            )
            parts += [
                f"### Attributes {{ #{path}.attributes }}\n\n{table}"
                for table in [attributes_table(found)]
                if table
            ]
        else:
            parts.append(f"::: {path}")
    return "\n\n".join(parts) + "\n"


def attributes_table(found: griffe.Object) -> str:
    """Public attributes with their types and what their comment or docstring says."""
    attributes = [
        each for each in found.all_members.values() if each.is_attribute and _is_public(each)
    ]
    rows = [
        (f"`{each.name}`", f"`{each.annotation}`" if each.annotation else "", _summary(each))
        for each in attributes
    ]
    return _table(("attribute", "type", "what it is"), rows) if rows else ""


def exported(package: str) -> list[str]:
    """`__all__` of a package, read from its source: importing it would load PyTorch."""
    source = (ENGINE.parent / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return list(ast.literal_eval(node.value))
    raise PluginError(
        f"{package}: its __init__.py says no __all__, so its public names are not known"
    )


@functools.cache
def _engine() -> griffe.Module:
    """The package as its source says, nothing imported."""
    return griffe.load(
        "engine", search_paths=[ENGINE.parent], extensions=griffe.load_extensions(str(EXTENSION))
    )


def _found(path: str) -> griffe.Object:
    found = _engine()[path.removeprefix("engine.")]
    return found.final_target if found.is_alias else found


def _is_public(each: griffe.Object | griffe.Alias) -> bool:
    return not each.name.startswith("_")


def _summary(found: griffe.Object | griffe.Alias) -> str:
    """The first sentence of a docstring, in one line of a table."""
    text = found.docstring.value if found.docstring else ""
    return _escaped(" ".join(re.split(r"(?<=\.)\s|\n\n", text, maxsplit=1)[0].split()))


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text: str) -> str:
    """As it is, within a cell of a Markdown table: only code in backticks is markup."""
    parts = text.split("`")
    parts[::2] = [
        re.sub(r"[&<{|]", lambda found: f"&#{ord(found[0])};", re.sub(r"([\[\]*_])", r"\\\1", p))
        for p in parts[::2]
    ]
    return "`".join(parts)


def _anchor(name: str) -> str:
    """A place to link to. As HTML, which the site and the pages of a git server understand."""
    return f'<a id="{name}"></a>'


def _text(content: str) -> str:
    return f"```text\n{content}\n```"


if __name__ == "__main__":
    for outdated, text in outdated_pages().items():
        outdated.write_text(text, encoding="utf-8")
        print(f"renewed: {outdated.relative_to(DOCS.parent)}")
