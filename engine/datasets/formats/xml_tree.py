"""XML as a tree that knows its line numbers; entities and external references are refused
(defusedxml).

Small files come whole (`parse_xml`), large ones element by element (`stream_xml`), so that memory
stays flat.
"""

from __future__ import annotations

import contextlib
import xml.sax
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import defusedxml.sax
from defusedxml.common import DefusedXmlException

MAX_DEPTH = 100


@dataclass
class Node:
    """An element: `node.child("size")`, `node.text("filename")`, `node.attributes.get("label")`."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    content: str = ""
    nodes: list[Node] = field(default_factory=list)

    def children(self, tag: str) -> Iterator[Node]:
        return (node for node in self.nodes if node.tag == tag)

    def child(self, tag: str) -> Node | None:
        return next(self.children(tag), None)

    def text(self, tag: str) -> str | None:
        """The trimmed text of the first child `tag`, a line break in it as a blank; None where
        there is none.
        """
        node = self.child(tag)
        return (
            None
            if node is None
            else " ".join(filter(None, map(str.strip, node.content.split("\n"))))
        )

    def below(self, tag: str) -> Iterator[Node]:
        """Every element `tag` below this one, at any depth."""
        for node in self.nodes:
            if node.tag == tag:
                yield node
            yield from node.below(tag)


def parse_xml(data: bytes) -> Node:
    """The root of an XML document.

    Raises:
        ValueError: not well-formed, with its line; or it declares entities, which is how small
            files become huge.
    """
    builder = _Builder()
    with _explained(empty=not data.strip()):
        defusedxml.sax.parseString(data, builder)
    return builder.document.nodes[0]


def stream_xml(chunks: Iterable[bytes]) -> Iterator[Node]:
    """The root, still without content, then each of its elements as soon as it is complete, and
    forgotten after that.

    Raises:
        ValueError: as for `parse_xml`, when the faulty place is reached.
    """
    builder = _Builder(streaming=True)
    parser = defusedxml.sax.make_parser()
    parser.setContentHandler(builder)
    builder.setDocumentLocator(parser)  # which `feed`, unlike `parse`, does not do
    empty, root_given = True, False
    for chunk in chunks:
        empty = empty and not chunk.strip()
        with _explained(empty):
            parser.feed(chunk)
        if not root_given and builder.document.nodes:
            root_given = True
            yield builder.document.nodes[0]
        yield from builder.taken()
    with _explained(empty):
        parser.close()
    yield from builder.taken()


@contextlib.contextmanager
def _explained(empty: bool) -> Iterator[None]:
    """Every way in which XML can be wrong becomes a ValueError with its reason."""
    try:
        yield
    except xml.sax.SAXParseException as error:
        what = "the file is empty" if empty else error.getMessage()
        raise ValueError(f"not well-formed XML ({what}, line {error.getLineNumber()})") from None
    except DefusedXmlException as error:
        raise ValueError(
            f"XML with entities or external references is refused ({type(error).__name__})"
        ) from None
    except (ValueError, LookupError) as error:  # an unknown or multi-byte encoding, too deep
        raise ValueError(f"not readable XML ({error})") from None


class _Builder(xml.sax.ContentHandler):
    """Grows the tree below `document`. streaming: what lies directly in the root is handed out once
    it is complete.
    """

    def __init__(self, streaming: bool = False) -> None:
        super().__init__()
        self.document = Node("", 0)
        self._streaming = streaming
        self._complete: list[Node] = []
        self._open = [self.document]
        # of each open element: a text comes line by line, and adding them up one by one would take
        # the square of their number
        self._pieces: list[list[str]] = [[]]
        self._locator: xml.sax.xmlreader.Locator | None = None

    def taken(self) -> list[Node]:
        """What became complete since the last call."""
        complete, self._complete = self._complete, []
        return complete

    def setDocumentLocator(self, locator: xml.sax.xmlreader.Locator) -> None:
        self._locator = locator

    def startElement(self, name: str, attrs: xml.sax.xmlreader.AttributesImpl) -> None:
        if len(self._open) > MAX_DEPTH:
            raise ValueError(f"elements nested deeper than {MAX_DEPTH}")
        node = Node(name, self._locator.getLineNumber(), dict(attrs.items()))
        self._open[-1].nodes.append(node)
        self._open.append(node)
        self._pieces.append([])

    def endElement(self, name: str) -> None:
        node = self._open.pop()
        node.content = "".join(self._pieces.pop())
        if self._streaming and len(self._open) == 2:
            self._open[-1].nodes.clear()
            self._pieces[-1].clear()  # nobody asks for the text between elements
            self._complete.append(node)

    def characters(self, content: str) -> None:
        self._pieces[-1].append(content)
