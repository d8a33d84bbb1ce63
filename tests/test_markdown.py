"""Text that came from data in Markdown, read back by a renderer of CommonMark with tables."""

import re
from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.markdown import plain, sentence, spread, table

markdown_it = pytest.importorskip("markdown_it")
RENDER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
EVIL = [
    "![p](https://example.org/x.png)",
    "[a](javascript:x)",
    "<img src=x onerror=y>",
    "</td><script>",
    "a|b",
    "`x`",
    "``x``",
    "`",
    "# head",
    "**bold** _it_ __b__ *i*",
    "~~gone~~",
    "&lt;b&gt;",
    "a\\",
    "a_b_c",
    "line\nbreak",
    "- list",
    "![a]: https://x.org",
]
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


def shown(markdown: str) -> str:
    """What a reader sees."""
    return unescape(re.sub(r"<[^>]+>", "", RENDER.render(markdown))).strip()


def tags(markdown: str) -> set[str]:
    return set(re.findall(r"<(\w+)", RENDER.render(markdown)))


@settings(deadline=None)
@given(st.sampled_from(EVIL) | TEXTS)
def test_a_cell_is_shown_as_it_is(text):
    rendered = RENDER.render(table(["class", "boxes"], [[text, 3], ["next", 4]]))
    assert set(re.findall(r"<(\w+)", rendered)) == {"table", "thead", "tbody", "tr", "th", "td"}
    cells = [unescape(each) for each in re.findall(r"<td>(.*?)</td>", rendered)]
    assert cells == [" ".join(text.split()), "3", "next", "4"]


@settings(deadline=None)
@given(st.sampled_from(EVIL) | TEXTS)
@example("`detectflow x")
def test_within_a_sentence_commands_stay_code_and_data_stay_text(text):
    text = text.replace("`", "") or "a"
    said = f'no class {text} here: `detectflow promote a_b/3 --why "..."` takes it'
    assert tags(sentence(said)) <= {"p", "code"}
    assert "<code>detectflow promote a_b/3" in RENDER.render(sentence(said))


@pytest.mark.parametrize("text", EVIL)
def test_nothing_is_loaded_or_run(text):
    for markdown in (plain(text), sentence(f"class {text} is worse"), f"**{plain(text)}**: x"):
        assert not tags(markdown) & {"img", "a", "script", "td", "h1", "em", "s", "ul"}, markdown


def test_columns_of_a_spread_table_keep_apart_and_its_cells_say_the_same():
    rows = [("a|b", 0.5), ("", "x | y")]
    near, apart = table(("name", "value"), rows), spread(table(("name", "value"), rows))
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", RENDER.render(each)) for each in (near, apart)]
    assert [[c.strip(" \u2003") for c in found] for found in cells] == [cells[0]] * 2
    assert all(cell.endswith("\u2003") for cell in cells[1][0::2])
    assert RENDER.render(apart).count("<tr>") == 3
