"""CVAT XML 1.1. "CVAT for images": boxes and polygons below each `<image>`. "CVAT for video":
`<track>`s of boxes, one a frame.

Coordinates are pixels of the image as shown, the left edge at 0. Of a turned box and of a polygon
the box around it is taken; shapes marked `outside` are not in the image. Tags of whole images are
not used. Frames of a video are the images called frame_000000, frame_000001, ... as CVAT saves them
beside the XML. Splits: the subsets of the tasks, else as for any folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath

from engine.datasets.formats.base import (
    BoxNumbers,
    Row,
    SourceImage,
    number,
    shown,
    split_word,
    stated_size,
)
from engine.datasets.formats.folder import Folder, base_name, without_suffix
from engine.datasets.formats.kinds import AnnotationReader, ReaderKind, ReadRequest
from engine.datasets.formats.shapes import Box, around, around_ellipse, around_turned
from engine.datasets.formats.xml_tree import Node, stream_xml
from engine.types import Size

CORNERS = ("xtl", "ytl", "xbr", "ybr")
SHAPES = {"box", "polygon"}
OTHER_SHAPES = {
    "ellipse",
    "mask",
    "cuboid",
    "polyline",
    "points",
    "skeleton",
}  # of the first three a box can be made

_ROOT = re.compile(rb"<annotations[\s>]")
_CONTENT = re.compile(rb"<(version|meta|image|track)[\s>]")
_FRAME = re.compile(r"frame_(\d+)")


class CvatReader(AnnotationReader):
    """See `formats.base.Reader`."""

    def __init__(self, request: ReadRequest) -> None:
        super().__init__(request)
        self._files = self._folder.with_suffix(".xml")
        metas = {file: meta for file in self._files if (meta := self._meta(file)) is not None}
        labels = (
            label.text("name")
            for meta in metas.values()
            for label in meta.below("label")
            if not label.text("parent")
        )
        self.names = tuple(dict.fromkeys(name for name in labels if name))
        self._use_subsets = not (self._splits.given_by_list or request.ignore_splits)
        subsets = (
            subset.content.strip() for meta in metas.values() for subset in meta.below("subset")
        )
        self.gives_splits |= self._use_subsets and any(map(split_word, subsets))

    def _meta(self, file: str) -> Node | None:
        """The `<meta>` of a file, which comes first; None where it has none or cannot be read."""
        try:
            for node in stream_xml(self._folder.chunks(file)):
                if node.tag == "meta":
                    return node
                if node.tag in ("image", "track"):
                    return None
        except ValueError:
            return None  # said when it is read
        return None

    def __iter__(self) -> Iterator[SourceImage]:
        for file in self._files:
            try:
                yield from self._file(file)
            except ValueError as error:
                self._findings.add("unreadable_annotation", file, str(error))
        yield from self._without_entry("is in no XML file")
        self._report_elsewhere(self._owner, self._files)

    def _file(self, file: str) -> Iterator[SourceImage]:
        elements = stream_xml(self._folder.chunks(file))
        root = next(elements)
        if root.tag != "annotations":
            detail = f"its root is <{root.tag}>, CVAT has <annotations>"
            self._findings.add("unreadable_annotation", file, detail, root.line)
            return
        video = _Video()
        subset, count = "", 0
        for node in elements:
            if node.tag == "meta":
                subset = next(
                    (
                        split
                        for each in node.below("subset")
                        if (split := split_word(each.content.strip()))
                    ),
                    "",
                )
                video.size = _size(next(node.below("original_size"), None))
            elif node.tag == "image":
                count += 1
                image = self._image(
                    file, node, split_word(node.attributes.get("subset", "")) or subset
                )
                if image is not None:
                    yield image
            elif node.tag == "track":
                count += 1
                self._track(file, node, video)
        if video.tracks:
            yield from self._frames(file, video, subset)
        if not count:
            self._findings.add(
                "unreadable_annotation", file, "holds neither <image> nor <track>", root.line
            )

    # Images ---------------------------------------------------------------------------------------

    def _image(self, file: str, node: Node, subset: str) -> SourceImage | None:
        text = node.attributes.get("name", "")
        if not text.strip():
            self._findings.add("bad_entry", file, "an <image> without name", node.line)
            return None
        name = self._folder.find_image(
            self._findings,
            file,
            text,
            node.line,
            what="name",
            prefer=lambda names: self._in_subset(names, subset),
        )
        if name is None:
            self._splits.excuse(base_name(text))
            return None
        rows = (
            self._row(file, shape, shape.attributes.get("label", ""))
            for shape in node.nodes
            if shape.tag != "tag"
        )
        size = stated_size(node.attributes.get("height"), node.attributes.get("width"))
        return self._labelled(
            file, name, tuple(row for row in rows if row is not None), size, subset, node.line
        )

    def _labelled(
        self,
        file: str,
        name: str,
        rows: tuple[Row, ...],
        size: Size | None,
        subset: str,
        line: int | None = None,
    ) -> SourceImage | None:
        if name in self._owner:
            self._findings.add(
                "duplicate_entry", file, f"describes {name}, as {self._owner[name]} does", line
            )
            return None
        self._owner[name] = file
        split = (subset if self._use_subsets else "") or self._splits.of(name)
        return SourceImage(
            name,
            rows,
            file,
            self._folder.path(name),
            size=size,
            states_size=True,
            split=split,
            line=line,
        )

    @staticmethod
    def _in_subset(names: list[str], subset: str) -> list[str]:
        """Of several images of one name, those in a folder called like the subset."""
        return [
            name for name in names if subset and subset in map(split_word, name.split("/")[:-1])
        ] or names

    # Shapes ---------------------------------------------------------------------------------------

    def _row(self, file: str, shape: Node, label: str) -> Row | None:
        if shape.attributes.get("outside") == "1":
            return None
        if not label.strip():
            self._findings.add("bad_entry", file, f"a <{shape.tag}> without label", shape.line)
            return None
        if shape.tag in OTHER_SHAPES:
            policy = self._findings.add(
                "other_shape", file, f"<{shape.tag}> of {shown(label)}", shape.line
            )
            box = self._box(file, shape) if policy == "fix" and shape.tag in _MAKERS else None
        elif shape.tag in SHAPES:
            box = self._box(file, shape)
        else:
            self._findings.add("bad_entry", file, f"<{shape.tag}> is no shape of CVAT", shape.line)
            box = None
        if box is None:
            return None
        outline = shape.tag != "box" or "rotation" in shape.attributes
        return Row(label.strip(), box, line=shape.line, outline=outline)

    def _box(self, file: str, shape: Node) -> Box | None:
        try:
            return _MAKERS[shape.tag](shape)
        except ValueError as error:
            self._findings.add("bad_entry", file, f"<{shape.tag}>: {error}", shape.line)
            return None

    # Videos ---------------------------------------------------------------------------------------

    def _track(self, file: str, node: Node, video: _Video) -> None:
        """The shapes of one object, sorted into their frames."""
        label, seen = node.attributes.get("label", ""), {}
        for shape in node.nodes:
            frame = number(shape.attributes.get("frame"))
            if frame is None or frame < 0 or frame != int(frame):
                detail = f"frame {shown(shape.attributes.get('frame', ''))} is no frame number"
                self._findings.add("bad_entry", file, detail, shape.line)
            elif frame in seen:
                detail = (
                    f"track {node.attributes.get('id', '')} has two shapes on frame {int(frame)}"
                )
                self._findings.add("duplicate_entry", file, detail, shape.line)
            else:
                seen[int(frame)] = shape
                row = self._row(file, shape, label)
                if row is not None:
                    video.rows[int(frame)].append(row)
        video.tracks.append((node, dict(sorted(seen.items()))))

    def _frames(self, file: str, video: _Video, subset: str) -> Iterator[SourceImage]:
        images = self._frame_images(file)
        if not images:
            detail = (
                "describes a video and there are no images frame_000000, frame_000001, ...; export "
                "it with its images"
            )
            self._findings.add("missing_image", file, detail)
            return
        for node, shapes in video.tracks:
            self._gaps(file, node, shapes, images)
        for frame in sorted({*images, *video.rows}):
            names = images.get(frame, [])
            if not names:
                self._findings.add(
                    "missing_image",
                    file,
                    f"there is no image frame_{frame:06d}",
                    video.rows[frame][0].line,
                )
            elif (
                len(names) > 1
                and self._findings.add("ambiguous_image", file, f"frame {frame} fits {names[:4]}")
                != "fix"
            ):
                continue
            elif image := self._labelled(
                file, names[0], tuple(video.rows.get(frame, ())), video.size, subset
            ):
                yield image

    def _frame_images(self, file: str) -> dict[int, list[str]]:
        """Frame -> its images: those of the XML's own folder, or all where that has none."""
        found: dict[int, list[str]] = defaultdict(list)
        beside = f"{PurePosixPath(file).parent}/" if "/" in file else ""
        for name in self._folder.images:
            match = _FRAME.fullmatch(base_name(without_suffix(name)))
            if match:
                found[int(match[1])].append(name)
        own = {
            frame: [name for name in names if name.startswith(beside)]
            for frame, names in found.items()
        }
        return {frame: names for frame, names in own.items() if names} or dict(found)

    def _gaps(
        self, file: str, node: Node, shapes: dict[int, Node], images: dict[int, list[str]]
    ) -> None:
        """An object that is in the image has a shape on every frame; CVAT writes those between
        keyframes too.
        """
        for (before, shape), (after, _) in pairwise(shapes.items()):
            silent = [frame for frame in range(before + 1, after) if frame in images]
            if silent and shape.attributes.get("outside") != "1":
                track = (
                    f"track {node.attributes.get('id', '')} "
                    f"{shown(node.attributes.get('label', ''))}"
                )
                detail = (
                    f"{track} says nothing about frame {silent[0]}, between {before} and {after}; "
                    "export all its frames"
                )
                self._findings.add("bad_entry", file, detail, shape.line)


class _Video:
    """What the tracks of one file add up to."""

    def __init__(self) -> None:
        self.size: Size | None = None
        self.rows: dict[int, list[Row]] = defaultdict(list)
        self.tracks: list[tuple[Node, dict[int, Node]]] = []


def is_cvat(folder: Folder, file: str) -> bool:
    """Whether an XML file begins like CVAT's."""
    head = folder.head(file)
    root = _ROOT.search(head)
    return root is not None and _CONTENT.search(head, root.end()) is not None


def _numbers(shape: Node, *keys: str) -> list[float]:
    """Attributes as numbers. ValueError for one that is none."""
    values = [number(shape.attributes.get(key)) for key in keys]
    if None in values:
        key = keys[values.index(None)]
        text = shape.attributes.get(key)
        raise ValueError(
            f"{key} " + ("is missing" if text is None else f"is {shown(text)}, not a number")
        )
    return values


def _turn(shape: Node) -> float:
    return _numbers(shape, "rotation")[0] if "rotation" in shape.attributes else 0.0


def _rectangle(shape: Node) -> Box:
    return around_turned(tuple(_numbers(shape, *CORNERS)), _turn(shape))


def _polygon(shape: Node) -> Box:
    texts = shape.attributes.get("points", "").split(";")
    points = [tuple(map(number, text.split(","))) for text in texts]
    if len(points) < 3:
        raise ValueError(f"{len(points)} corners, a polygon has at least 3")
    for text, point in zip(texts, points, strict=True):
        if len(point) != 2 or None in point:
            raise ValueError(f"{shown(text)} is no point x,y")
    return around(points)


def _ellipse(shape: Node) -> Box:
    cx, cy, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return around_ellipse((cx, cy), (rx, ry), _turn(shape))


def _mask(shape: Node) -> Box:
    left, top, w, h = _numbers(shape, "left", "top", "width", "height")
    return left, top, left + w, top + h


def _cuboid(shape: Node) -> Box:
    corners = [
        _numbers(shape, f"x{corner}", f"y{corner}")
        for corner in ("tl1", "bl1", "tr1", "br1", "tl2", "bl2", "tr2", "br2")
    ]
    return around([(x, y) for x, y in corners])


_MAKERS = {
    "box": _rectangle,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
    "cuboid": _cuboid,
}


def _size(node: Node | None) -> Size | None:
    """(h, w) of `<original_size>`."""
    return None if node is None else stated_size(node.text("height"), node.text("width"))


KIND = ReaderKind(
    name="cvat",
    title="CVAT",
    looks_for="annotations.xml",
    read_as='XML of "CVAT for images" and "CVAT for video", version 1.1',
    detect=lambda folder: any(is_cvat(folder, name) for name in folder.with_suffix(".xml")),
    open=CvatReader,
    numbers=BoxNumbers("xyxy", "px"),
    many_in_file=True,
)
