"""The documentation: it builds without a warning, says what the code says, needs no network, and
its examples run.
"""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from engine import cli, errors
from engine.cli.help import usage_of
from engine.config import known_names, schema
from engine.core import events

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SNIPPET = re.compile(
    r"^(?P<mark><!-- runs -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
FETCHED = {"link": "href", "object": "data"} | dict.fromkeys(
    ("script", "img", "iframe", "source", "video", "audio"), "src"
)
ELSEWHERE = re.compile(r"^(https?:)?//")


class Page(HTMLParser):
    """What a test asks of a page: the cells of its tables, its anchors, what a browser fetches for
    it, its text.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.text = ""
        self._in_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given["id"]} if given.get("id") else set()
        if FETCHED.get(tag) in given:
            self.fetched.append(given[FETCHED[tag]])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in {"td", "th"} and self.tables:
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            self._in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return target


def snippets():
    """(page, code, marked as runnable) of every Python example."""
    for path in sorted(DOCS.rglob("*.md")):
        for found in SNIPPET.finditer(path.read_text(encoding="utf-8")):
            yield path.relative_to(DOCS).as_posix(), found["code"], bool(found["mark"])


def words(text):
    """Without the marks of Markdown."""
    return text.replace("`", "").replace("*", "")


def test_make_docs_builds_the_same_way():
    recipe = (ROOT / "Makefile").read_text().split("\ndocs:")[1].split("\n\n")[0]
    assert "mkdocs build --strict" in recipe and "NO_MKDOCS_2_WARNING=1" in recipe


def test_the_tables_of_events_are_those_of_the_code(site):
    shown = [
        table[1:]
        for table in Page(site / "engine" / "events.html").tables
        if table[0][0] == "event"
    ]
    declared = [events.TRAIN_EVENTS, events.VAL_EVENTS, events.PREDICT_EVENTS, events.EXPORT_EVENTS]
    assert shown == [[[name, words(text)] for name, text in each.items()] for each in declared]


@pytest.mark.parametrize("section", schema.SECTIONS)
def test_every_setting_stands_in_the_reference_with_default_range_and_meaning(site, section):
    page = Page(site / "reference" / "configuration.html")
    rows = [row for table in page.tables if table[0][0] == "setting" for row in table[1:]]
    for each in schema.settings_of(schema.SECTIONS[section]):
        assert f"{section}.{each.key}" in page.anchors
        assert [each.key, each.default or "empty", words(each.kind), words(each.meaning)] in [
            [*map(words, row)] for row in rows
        ]


@pytest.mark.parametrize("section", known_names.SECTIONS)
def test_every_name_that_people_bring_stands_in_the_reference(site, section):
    page = Page(site / "reference" / "known-names.html")
    table = page.tables[list(known_names.SECTIONS).index(section)]
    told = {row[0]: row[2] for row in table[1:]}
    for row in known_names.SECTIONS[section].values():
        if row.here == row.name and not row.how:
            assert row.name in page.text
        else:
            assert told[row.name] == (row.here or "-"), row.name


def test_every_command_and_error_stands_in_the_reference(site):
    page = Page(site / "reference" / "command-line.html")
    assert set(cli.MODES) <= page.anchors
    for mode in cli.MODES:
        assert usage_of(mode) in page.text
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EngineError)
    }
    shown = Page(site / "howto" / "troubleshooting.html").tables[0][1:]
    assert {row[0] for row in shown} == kinds and all(row[2] for row in shown)


def test_every_public_name_has_a_page_with_its_methods(site):
    import engine.detect
    import engine.export

    pages = [Page(path) for path in (site / "reference" / "classes").glob("*.html")]
    anchors = set().union(*(page.anchors for page in pages))
    for package in (engine.detect, engine.export):
        for name in package.__all__:
            path, value = f"{package.__name__}.{name}", getattr(package, name)
            assert path in anchors
            methods = vars(value).items() if inspect.isclass(value) else ()
            own = {
                key
                for key, each in methods
                if inspect.isfunction(each) and each.__name__ == key and key[0] != "_"
            }
            assert {f"{path}.{method}" for method in own} <= anchors


def test_the_methods_to_override_are_those_of_the_classes():
    from engine.core.predictor import BasePredictor
    from engine.core.trainer import BaseTrainer
    from engine.core.validator import BaseValidator

    text = (DOCS / "engine" / "customise.md").read_text(encoding="utf-8")
    for kind in (BaseTrainer, BaseValidator, BasePredictor):
        _, must, may = re.search(
            rf"^\| `({kind.__name__})` \| (.*) \| (.*) \|$", text, re.MULTILINE
        ).groups()
        for method in re.findall(r"`(\w+)`", must + may):
            assert callable(getattr(kind, method)), f"{kind.__name__}.{method}"


def test_pages_fetch_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert not {
        address for path in pages for address in Page(path).fetched if ELSEWHERE.match(address)
    }
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles and not [
        found for text in styles for found in re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*", text)
    ]


def test_every_example_is_python():
    found = list(snippets())
    assert len(found) > 10
    for page, code, _ in found:
        compile(code, page, "exec")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder as a user has it: a small version of the demo dataset, two images to try."""
    content = yaml.safe_load((ROOT / "data" / "digits.yaml").read_text())
    content["options"] = {"train": 8, "val": 4, "test": 4, "size": 160}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "some.jpg").write_bytes(
        (DOCS / "images" / "detections.jpg").read_bytes()
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", sorted({page for page, _, runs in snippets() if runs}))
def test_the_examples_of_a_page_run_one_after_the_other(page, project):
    names = {"__name__": "__main__"}
    for where, code, runs in snippets():
        if where == page and runs:
            exec(compile(code, page, "exec"), names)


@pytest.fixture(scope="module")
def hooks():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_in_the_repository_are_those_of_the_code(hooks):
    outdated = [page.relative_to(ROOT).as_posix() for page in hooks.outdated_pages()]
    assert not outdated, f"`make docs-tables` renews what the code says in {', '.join(outdated)}"
    reference = DOCS / "reference"
    assert '"train.epochs"></a>`epochs` |' in (reference / "configuration.md").read_text()
    assert "detectflow rollback" in (reference / "command-line.md").read_text()
    assert "| `WorkspaceError` | 1 |" in (DOCS / "howto" / "troubleshooting.md").read_text()
    assert "`near_duplicate" in (DOCS / "data" / "checks.md").read_text()


def test_a_table_is_renewed_in_its_place_and_once(hooks):
    page = "# Title\n\n<!-- generated: errors -->\n\nafter\n\n<!-- generated: classes -->\nlast\n"
    once = hooks.renewed(page, "page.md")
    table = hooks.generated("errors", "page.md")
    assert once == page.replace(
        "<!-- generated: errors -->", f"<!-- generated: errors -->\n\n{table}\n\n<!-- end -->"
    )
    assert hooks.renewed(once, "page.md") == once
    old = once.replace("WorkspaceError", "ErrorOfYesterday")
    assert old != once and hooks.renewed(old, "page.md") == once
    recipe = (ROOT / "Makefile").read_text().split("\ndocs-tables:")[1].split("\n\n")[0]
    assert "docs/hooks.py" in recipe


def test_a_mark_that_nothing_stands_for_ends_the_build(hooks):
    from mkdocs.exceptions import PluginError

    with pytest.raises(
        PluginError, match=r"page.md: nothing stands for '<!-- generated: events trainr -->'"
    ):
        hooks.generated("events trainr", "page.md")
