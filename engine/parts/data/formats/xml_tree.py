"""Small XML files as a tree that knows its line numbers; entities and external references are refused (defusedxml)."""

from __future__ import annotations

import xml.sax
from collections.abc import Iterator
from dataclasses import dataclass, field

import defusedxml.sax
from defusedxml.common import DefusedXmlException

MAX_DEPTH = 100


@dataclass
class Node:
    """An element: `node.child("size")`, `node.text("filename")`."""

    tag: str
    line: int
    content: str = ""
    nodes: list[Node] = field(default_factory=list)

    def children(self, tag: str) -> Iterator[Node]:
        return (node for node in self.nodes if node.tag == tag)

    def child(self, tag: str) -> Node | None:
        return next(self.children(tag), None)

    def text(self, tag: str) -> str | None:
        """The trimmed text of the first child `tag`; None where there is none."""
        node = self.child(tag)
        return None if node is None else node.content.strip()


def parse_xml(data: bytes) -> Node:
    """The root of an XML document.

    Raises:
        ValueError: not well-formed, with its line; or it declares entities, which is how small files become huge.
    """
    builder = _Builder()
    try:
        defusedxml.sax.parseString(data, builder)
    except xml.sax.SAXParseException as error:
        what = "the file is empty" if not data.strip() else error.getMessage()
        raise ValueError(f"not well-formed XML ({what}, line {error.getLineNumber()})") from None
    except DefusedXmlException as error:
        raise ValueError(f"XML with entities or external references is refused ({type(error).__name__})") from None
    except (ValueError, LookupError) as error:  # an unknown or multi-byte encoding, too deep
        raise ValueError(f"not readable XML ({error})") from None
    return builder.root.nodes[0]


class _Builder(xml.sax.ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", 0)
        self._open = [self.root]
        self._locator: xml.sax.xmlreader.Locator | None = None

    def setDocumentLocator(self, locator: xml.sax.xmlreader.Locator) -> None:
        self._locator = locator

    def startElement(self, name: str, attrs: object) -> None:
        if len(self._open) > MAX_DEPTH:
            raise ValueError(f"elements nested deeper than {MAX_DEPTH}")
        node = Node(name, self._locator.getLineNumber())
        self._open[-1].nodes.append(node)
        self._open.append(node)

    def endElement(self, name: str) -> None:
        self._open.pop()

    def characters(self, content: str) -> None:
        self._open[-1].content += content
