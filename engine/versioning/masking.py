"""Values in code and settings that look like passwords: masked in a patch so that it still applies.

It knows them by the name before them (`..._PASSWORD`, `token`, `api_key`) and by addresses. A help,
no guarantee: a password under another name is not seen. Standard library only.
"""

from __future__ import annotations

import re

from engine.project.redaction import HIDDEN, hide

PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")

_NAMES = (
    r"(?:password|passwd|passphrase|secret|token|credential|auth[_-]?string|authorization|"
    r"(?:api|access|secret|private|account|auth)[_-]?key)s?(?:_?\d{1,3})?"
)
_GIVEN = rf"({_NAMES}[\"'\])]{{0,3}}[ \t]{{0,40}}"  # a name, and what may stand before : or =
_QUOTED = re.compile(
    rf"{_GIVEN}(?::[ \t]{{0,40}}[\w.\[\] |]{{1,60}}=|[:=]{{1,2}})[ \t]{{0,40}}[rbfu]{{0,2}}"
    rf"|(?:setenv|putenv|getenv|setdefault|environ\.get)\([\"']\w{{0,60}}?{_NAMES}[\"'],[ "
    rf"\t]{{0,40}}[rbfu]{{0,2}})"
    r"(\"\"\"|\'\'\'|\"|')((?:\\.|(?!\2)[^\\\r\n]){1,20000})",
    re.IGNORECASE,
)
_BARE = re.compile(rf"{_GIVEN}[:=]{{1,2}}[ \t]{{0,40}})([^\s\"'][^\r\n]*)", re.IGNORECASE)
_LONG = re.compile(rf"{_GIVEN}[:=]{{1,2}}[ \t]{{0,40}})([\w+/=-]{{16,}})", re.IGNORECASE)
_BLOCK = re.compile(
    rf"{_NAMES}[\"']?[ \t]{{0,9}}:[ \t]{{0,9}}([|>][+-]?\d?[+-]?)?[ \t]{{0,9}}\r?$", re.IGNORECASE
)
_MAPPING = re.compile(r"[ \t-]*[\"']?[\w.-]+[\"']?:(?:\s|$)")
_REFERENCE = re.compile(  # where a value is to be found, not the value
    r"\$?\{\{[^{}]*\}\}|\$\w+|\$\{\w+\}|(?:bearer |basic |token "
    r")?\{[^{}]+\}|\*\*\*|null|none|~|[|>][+-]?\d?",
    re.IGNORECASE,
)


class Masking:
    """Masks the lines of one file. `masked` says whether there was anything to mask."""

    def __init__(self, name: str):
        self.python, self.yaml = name.endswith(".py"), name.endswith((".yaml", ".yml"))
        self.masked = False
        # indent of a YAML name with its value on the lines below; one in `|` or `>`
        self._block: tuple[int, bool] | None = None

    def lines(self, text: str) -> str:
        return "\n".join(self._line(line) for line in text.split("\n"))

    def hunk(self, text: str) -> str | None:
        """A hunk with its added lines masked; None where a line that the commit has would have to
        be: it would not apply.
        """
        head, *lines = text.split("\n")
        shown = [re.sub(r"^(@@ [^@]*@@).*", r"\1", head)]  # behind it git writes a line of the file
        for line in lines:
            sign, rest = line[:1], line[1:]
            new = self._line(rest) if sign and sign in "+- " else rest
            if new != rest and sign != "+":
                return None
            shown.append(sign + new)
        return "\n".join(shown)

    def _line(self, line: str) -> str:
        new = self._of_a_block(line) if self.yaml else None
        if new is None:
            new = hide(_QUOTED.sub(self._quoted, line))
            bare = not self.python or line.lstrip().startswith("#")
            new = _BARE.sub(_bare, new) if bare else _LONG.sub(_long, new)
        self.masked |= new != line
        return new

    def _of_a_block(self, line: str) -> str | None:
        indent = len(line) - len(line.lstrip(" \t"))
        if self._block is not None and line.strip():
            above, is_text = self._block
            if indent <= above:
                self._block = None
            elif is_text or not _MAPPING.match(line):
                return f"{line[:indent]}{HIDDEN}" + ("\r" if line.endswith("\r") else "")
        opened = _BLOCK.search(line) if not line.lstrip().startswith("#") else None
        if opened is not None:
            self._block = len(line) - len(line.lstrip(" \t-")), bool(opened[1])
        return None

    def _quoted(self, found: re.Match[str]) -> str:
        before = found.string[: found.start(2)].count(found[2][0])
        # print("token: " + shown)
        closes = self.python and before % 2 == 1 and found[3][0] in " +),.]"
        return (
            found[0]
            if closes or _REFERENCE.fullmatch(found[3].strip())
            else f"{found[1]}{found[2]}{HIDDEN}"
        )


def _bare(found: re.Match[str]) -> str:
    value = re.sub(r"[ \t]#.*$", "", found[2]).strip().rstrip(",")
    return found[0] if not value or _REFERENCE.fullmatch(value) else f"{found[1]}{HIDDEN}"


def _long(found: re.Match[str]) -> str:
    """In code only what is no name: long, with letters and digits."""
    value, behind = found[2], found.string[found.end() : found.end() + 1]
    is_name = behind in {".", "(", "["} or not (
        re.search(r"\d", value) and re.search("[A-Za-z]", value)
    )
    return found[0] if is_name else f"{found[1]}{HIDDEN}"
