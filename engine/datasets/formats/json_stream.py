"""JSON read piece by piece: the entries of a file's top-level lists one at a time, each with its
line, so that memory holds one entry and not the file. The rules are the standard library's, whose
decoder does the work; a key that stands twice in one object, of which it would silently take the
last, and text that cannot be written as UTF-8 are refused.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.datasets.formats.base import is_writable, shown

WINDOW_CHARS = 1 << 18  # read at a time, at least
MAX_ENTRY_CHARS = 1 << 26  # of one entry of a list; a mistake or an attack above that
NEAR_THE_END = 32  # characters: longer than any number's unfinished end, than any literal or escape

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, as an escape
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Item:
    """One value of a file. Its outermost object and its top-level lists come empty, followed by
    what they hold.
    """

    section: (
        str | None
        # the top-level key it stands under; None for the outermost value, and in a file that is a
        # list
    )
    position: int | None  # in the list; None for the value of a key, and for a list about to begin
    line: int
    value: Any


def stream_json(chunks: Iterable[bytes]) -> Iterator[Item]:
    """The content of a JSON file in UTF-8, with or without byte order mark, in its order.

    `{"a": [1, 2], "b": 3}` gives {} of None, [] of "a", 1 and 2 of "a", 3 of "b".

    Raises:
        ValueError: when the faulty place is reached; the text says what is wrong and in which line.
    """
    text = _Window(chunks)
    first = text.next_char()
    if first == "{":
        yield Item(None, None, text.line, {})
        yield from _members(text)
    elif first == "[":
        yield Item(None, None, text.line, [])
        yield from _elements(text, None)
    else:
        yield Item(None, None, text.line, text.value())
    if text.next_char():
        raise text.wrong("Extra data")


class ChangedFile(ValueError):
    """A file that was whole when it was scanned, and no longer is."""


def stream_json_again(chunks: Iterable[bytes]) -> Iterator[Item]:
    """`stream_json` for a file that it has been through once. Raises ChangedFile in place of
    ValueError.
    """
    try:
        yield from stream_json(chunks)
    except ValueError as error:
        raise ChangedFile(f"was changed while it was read: {error}") from None


def _members(text: _Window) -> Iterator[Item]:
    """What the object that begins here holds."""
    seen: set[str] = set()
    text.skip()
    while (char := text.next_char()) != "}" or seen:
        if char != '"':
            raise text.wrong("Expecting property name enclosed in double quotes")
        line, key = text.line, text.value()
        if key in seen:
            raise ValueError(f"not valid JSON: key {shown(key)} is there twice (line {line})")
        seen.add(key)
        if text.next_char() != ":":
            raise text.wrong("Expecting ':' delimiter")
        text.skip()
        if text.next_char() == "[":
            yield Item(key, None, text.line, [])
            yield from _elements(text, key)
        else:
            yield Item(key, None, text.line, text.value())
        char = text.next_char()
        if char == "}":
            break
        if char != ",":
            raise text.wrong("Expecting ',' delimiter")
        text.skip()
    text.skip()


def _elements(text: _Window, section: str | None) -> Iterator[Item]:
    """What the list that begins here holds."""
    text.skip()
    position = 0
    while position or text.next_char() != "]":
        text.next_char()
        yield Item(section, position, text.line, text.value())
        position += 1
        char = text.next_char()
        if char == "]":
            break
        if char != ",":
            raise text.wrong("Expecting ',' delimiter")
        text.skip()
    text.skip()


class _RepeatedKey(Exception):
    """A key that an object has twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


class _Window:
    """A part of the text, and the place in it that comes next."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder(object_pairs_hook=_without_repeats).raw_decode
        self._text, self._next = "", 0
        self._begun = self._ended = False
        self._bytes = 0  # given to the decoder so far
        # Of what lies before the window: characters, line feeds, and characters since the last of
        # those.
        self._chars = self._feeds = self._column = 0
        self._counted, self._line = 0, 1  # the line at that place in the window

    @property
    def line(self) -> int:
        """The line of the place that comes next."""
        self._line += self._text.count("\n", self._counted, self._next)
        self._counted = self._next
        return self._line

    def next_char(self) -> str:
        """The next character that is no white space, which stays the next; "" at the end of the
        file.
        """
        while True:
            self._next = _SPACE.match(self._text, self._next).end()
            if self._next < len(self._text):
                return self._text[self._next]
            if not self._read_on():
                return ""

    def skip(self) -> None:
        self._next += 1

    def value(self) -> Any:
        """The value that begins at the next character; what follows it comes next. ValueError says
        what is wrong.
        """
        while True:
            try:
                value, end = self._parse(self._text, self._next)
            except json.JSONDecodeError as error:
                cut_off = (
                    error.msg.startswith("Unterminated string")
                    or error.pos >= len(self._text) - NEAR_THE_END
                )
                if cut_off and self._read_on():
                    continue
                raise self.wrong(error.msg, error.pos) from None
            except RecursionError:
                raise ValueError("JSON nested too deep") from None
            except _RepeatedKey as error:
                where = f"in the entry that begins in line {self.line}"
                raise ValueError(
                    f"not valid JSON: key {shown(str(error))} is there twice in one object, {where}"
                ) from None
            is_number = self._text[self._next] in "-0123456789"
            if is_number and end > len(self._text) - NEAR_THE_END and self._read_on():
                continue  # it may have more digits
            if _HALF.search(self._text, self._next, end) and not is_writable(
                json.dumps(value, ensure_ascii=False)
            ):
                raise ValueError(
                    "not valid JSON: half of a surrogate pair, in the entry that begins in line "
                    f"{self.line}"
                )
            self._next = end
            return value

    def wrong(self, what: str, place: int | None = None) -> ValueError:
        """The error for a place in the window, by default the next one."""
        place = self._next if place is None else place
        feeds = self._text.count("\n", 0, place)
        column = place - self._text.rfind("\n", 0, place) if feeds else self._column + place + 1
        return ValueError(
            f"not valid JSON: {what}: line {self._feeds + feeds + 1} column {column} (char "
            f"{self._chars + place})"
        )

    def _read_on(self) -> bool:
        """Bring more text into the window and forget what is done with; False, and nothing moves,
        at the end of the file.
        """
        kept = len(self._text) - self._next
        if kept > MAX_ENTRY_CHARS:
            limit = f"{MAX_ENTRY_CHARS >> 20} million characters"
            raise ValueError(f"the entry that begins in line {self.line} has more than {limit}")
        pieces, wanted = (
            [],
            max(WINDOW_CHARS, kept),
        )  # twice as much each time: a long entry is not read too often
        while wanted > 0 and not self._ended:
            pieces.append(self._piece())
            wanted -= len(pieces[-1])
        if not any(pieces):
            return False
        self._line, done = self.line, self._text[: self._next]
        feeds = done.count("\n")
        self._chars += len(done)
        self._feeds += feeds
        self._column = len(done) - done.rfind("\n") - 1 if feeds else self._column + len(done)
        self._text = self._text[self._next :] + "".join(pieces)
        self._next = self._counted = 0
        return True

    def _piece(self) -> str:
        data = next(self._chunks, b"")
        self._ended = not data
        pending = len(self._decode.getstate()[0])
        try:
            text = self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"not UTF-8 text (byte {self._bytes - pending + error.start}); save it as UTF-8"
            ) from None
        self._bytes += len(data)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        return text
