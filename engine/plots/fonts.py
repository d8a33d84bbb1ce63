"""Which font draws a letter: DejaVu Sans, which comes with matplotlib, then the fonts of the
system, else a substitute.

No other font is bundled: one with Chinese, Japanese and Korean letters weighs tens of megabytes.
Where none is installed a class is written as its number (`#3`) and one warning says what to
install; an empty box would help nobody.
"""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger("detectflow")

INVISIBLE = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
}  # control, format, surrogate, private, unassigned: never drawn
HELP = "install a font that has them, for example the package fonts-noto-cjk"

_homes: dict[
    str, str | None
] = {}  # letter -> font file, None: no font has it. Fonts do not change while a process runs.


def drawable_names(names: Sequence[str]) -> list[str]:
    """The names on one line, as they can be drawn: one with letters that no font has becomes `#`
    and its number, then its other letters. What was replaced is logged once for the same names.
    """
    return list(_drawable_names(tuple(map(str, names))))


@functools.lru_cache(maxsize=64)
def _drawable_names(names: tuple[str, ...]) -> tuple[str, ...]:
    _find_homes(" ".join(names))
    drawn, replaced = [], []
    for i, name in enumerate(names):
        visible = "".join(letter for letter in " ".join(name.split()) if not _is_invisible(letter))
        rest = "".join(letter for letter in visible if _homes[letter])
        if rest != visible:
            replaced.append(f"#{i} is {name}")
        drawn.append(visible if rest == visible else f"#{i} {rest.strip()}".strip())
    if replaced:
        more = f", and {len(replaced) - 8} more" if len(replaced) > 8 else ""
        log.warning(
            "no font here has the letters of some class names; in images %s%s; %s",
            ", ".join(replaced[:8]),
            more,
            HELP,
        )
    return tuple(drawn)


def drawable(text: str) -> str:
    """A text, for example a file name, with each letter that no font has written as its code,
    `\\u7ec6`.
    """
    _find_homes(text)
    escaped = (
        letter if _homes.get(letter) else letter.encode("unicode_escape").decode()
        for letter in text
    )
    return "".join(escaped)


def runs(text: str) -> list[tuple[str, str]]:
    """(font file, part) of a drawable text from left to right; DejaVu wherever it can."""
    _find_homes(text)
    parts: list[tuple[str, str]] = []
    for letter in text:
        home = _homes[letter] or base_font()
        if parts and parts[-1][0] == home:
            parts[-1] = home, parts[-1][1] + letter
        else:
            parts.append((home, letter))
    return parts


def font_families() -> list[str]:
    """Font families for matplotlib, in the order it should look: DejaVu Sans and whatever other
    fonts were needed so far.
    """
    others = sorted({home for home in _homes.values() if home and home != base_font()})
    if not others:
        return ["DejaVu Sans"]
    from matplotlib import font_manager, ft2font

    for file in others:
        font_manager.fontManager.addfont(file)  # its list may be older than the font
    return ["DejaVu Sans", *dict.fromkeys(ft2font.FT2Font(file).family_name for file in others)]


def needs_other_fonts(text: str) -> bool:
    """Whether DejaVu Sans lacks some of the letters."""
    return any(file != base_font() for file, _ in runs(text))


@functools.cache
def base_font() -> str:
    """The file of DejaVu Sans."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) in INVISIBLE


def _find_homes(text: Iterable[str]) -> None:
    """Fill `_homes` for the letters of a text."""
    unknown = set(text) - _homes.keys()
    if not unknown:
        return
    _take(base_font(), unknown)
    visible = {letter for letter in unknown if not _is_invisible(letter)}
    for file in _system_fonts() if visible else ():
        _take(file, visible)
        if not visible:
            break
    _homes.update(dict.fromkeys(unknown - _homes.keys()))


def _take(file: str, letters: set[str]) -> None:
    """Move the letters that a font has from `letters` to `_homes`."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (RuntimeError, OSError):  # a damaged or unreadable font of the system is none
        return
    if not font.scalable:  # bitmaps of one size, such as coloured emoji
        return
    mine = {letter for letter in letters if font.get_char_index(ord(letter))}
    letters -= mine
    _homes.update(dict.fromkeys(mine, file))


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """Font files of the system, upright and regular sans-serif first."""
    from matplotlib.font_manager import findSystemFonts

    def order(file: str) -> tuple[bool, bool, str]:
        name = Path(file).name.lower()
        return (
            any(word in name for word in ("bold", "italic", "oblique", "mono", "emoji")),
            "serif" in name,
            file,
        )

    return tuple(sorted(findSystemFonts(), key=order))
