"""One HTML page with pictures in it: opens from anywhere, asks no network, follows light and dark,
fits a phone.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

Box = Sequence[float]  # xyxy pixels of the image as shown

PICTURE_PX = 340  # longer side of a picture on the page
JPEG_QUALITY = 80
LEAST_CROP_PX = 96  # around the smallest boxes
SURROUNDINGS = 0.75  # of the longer side of the boxes, shown on each side of them
LARGEST_CROP = 0.8  # of the image; boxes that need more are shown in the whole image
COLOURS = (
    (40, 90, 240),
    (235, 140, 20),
    (60, 170, 60),
)  # BGR: orange red, blue, green; told apart by the colour-blind too
DASH_PX, LINE_PX = 7, 2
CROWDED = 6  # boxes; more are drawn without a rim, which would be darker than they are bright

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5a6675;--paper:#fff;--card:#f4f6f8;--line:#d9dee4;
--error:#b3261e;--warning:#8a5a00;--note:#33618d;--good:#1d6b3a}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaef;--soft:#a3aebb;--paper:#14181d;--card:#1e242b;--line:#333c46;
--error:#ff8a80;--warning:#ffc266;--note:#8cc2f2;--good:#7fd6a0}}
*{box-sizing:border-box}body{margin:0 auto;max-width:76rem;padding:1.25rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.15rem;margin:2.25rem 0 .25rem}
p{margin:.25rem 0 .75rem}.soft,figcaption,li{color:var(--soft)}ul{padding-left:1.2rem;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
table.narrow{width:auto}th,td{text-align:left;padding:.35rem .9rem;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child{padding-left:0}th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right}a{color:inherit}
.mark{font-weight:600;white-space:nowrap}.error{color:var(--error)}.warning{color:var(--warning)}.note{color:var(--note)}
.good{color:var(--good)}.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:.9rem}
figure{margin:0;padding:.6rem;background:var(--card);border:1px solid var(--line);border-radius:.5rem}
@media (min-width:40rem){figure.two{grid-column:span 2}}
figure .pair{display:flex;gap:.4rem}figure .pair img{flex:1 1 0;min-width:0}
img{display:block;width:100%;height:auto;max-height:20rem;object-fit:contain;border-radius:.25rem}
figcaption{font-size:.85rem;margin-top:.45rem;overflow-wrap:anywhere}figcaption b{color:var(--ink);font-weight:600}
"""


@dataclass(frozen=True)
class Figure:
    """Pictures side by side and what is said about them. A picture is a JPEG."""

    pictures: tuple[bytes, ...]
    title: str
    text: str = ""


@dataclass
class Page:
    """Collects the parts of a page; every text is escaped here and nowhere else."""

    title: str
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str, anchor: str = "", mark: str = "", style: str = "") -> None:
        """A section. mark: a word before it, in the colour of `style` (error, warning, note,
        good).
        """
        name = f' id="{html.escape(anchor)}"' if anchor else ""
        word = f'<span class="mark {style}">{html.escape(mark)}</span> ' if mark else ""
        self.parts.append(f"<h2{name}>{word}{html.escape(text)}</h2>")

    def paragraph(self, text: str, style: str = "") -> None:
        self.parts.append(f'<p class="{style}">{html.escape(text)}</p>')

    def lines(self, texts: Iterable[str]) -> None:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        if items:
            self.parts.append(f"<ul>{items}</ul>")

    def table(
        self,
        head: Sequence[str],
        rows: Iterable[Sequence[object]],
        styles: Sequence[str] = (),
        narrow: bool = False,
    ) -> None:
        """Numbers stand to the right. styles: of the first cell of each row, see `heading`. A cell
        (text, anchor) is a link.

        narrow: as wide as its content and no wider, so that the eye finds from a word to its
        number.
        """

        def cell(value: object, tag: str, style: str = "") -> str:
            if isinstance(value, tuple):
                return (
                    f'<{tag}><a href="#{html.escape(value[1])}">{html.escape(value[0])}</a></{tag}>'
                )
            right = "n" if isinstance(value, (int, float)) else style
            text = f"{value:,}" if isinstance(value, int) else str(value)
            return f'<{tag} class="{right}">{html.escape(text)}</{tag}>'

        body, first = [], None
        for number, row in enumerate(rows):
            first = first or row
            style = f"mark {styles[number]}" if number < len(styles) else ""
            body.append(
                "<tr>"
                + "".join(cell(value, "td", style if k == 0 else "") for k, value in enumerate(row))
                + "</tr>"
            )
        sides = [
            "n" if first and isinstance(first[k], (int, float)) else "" for k in range(len(head))
        ]
        top = "".join(
            f'<th class="{side}">{html.escape(text)}</th>'
            for text, side in zip(head, sides, strict=True)
        )
        kind = ' class="narrow"' if narrow else ""
        self.parts.append(
            "<div "
            f'class="wide"><table{kind}><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        )

    def figures(self, figures: Iterable[Figure]) -> None:
        cards = []
        for figure in figures:
            images = "".join(
                f'<img alt="{html.escape(figure.title)}" '
                f'src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
                for picture in figure.pictures
            )
            images = f'<div class="pair">{images}</div>' if len(figure.pictures) > 1 else images
            text = f"<figcaption><b>{html.escape(figure.title)}</b><br>{html.escape(figure.text)}</figcaption>"
            cards.append(
                "<figure "
                f'class="{"two" if len(figure.pictures) > 1 else ""}">{images}{text}</figure>'
            )
        if cards:
            self.parts.append(f'<div class="grid">{"".join(cards)}</div>')

    def __str__(self) -> str:
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head><body>\n<h1>{html.escape(self.title)}</h1>\n"
            + "\n".join(self.parts)
            + "\n</body></html>\n"
        )


# Pictures -----------------------------------------------------------------------------------------


def picture(
    image: np.ndarray, boxes: Sequence[tuple[Box, int, bool]] = (), around: Sequence[Box] = ()
) -> bytes:
    """A JPEG of the part of `image` (H, W, 3 BGR) around some boxes, or of all of it, with boxes
    drawn.

    boxes: (xyxy, number of its colour, whether its line is dashed). around: what the part shows;
    empty: the whole image.
    """
    x1, y1, x2, y2 = (
        _part(image.shape[:2], around) if around else (0, 0, image.shape[1], image.shape[0])
    )
    part = image[y1:y2, x1:x2]
    gain = PICTURE_PX / max(part.shape[:2])
    size = tuple(max(round(side * gain), 1) for side in (part.shape[1], part.shape[0]))
    shown = cv2.resize(part, size, interpolation=cv2.INTER_AREA if gain < 1 else cv2.INTER_CUBIC)
    for box, colour, dashed in boxes:
        corners = (np.array(box, np.float64) - (x1, y1, x1, y1)) * gain
        _draw(
            shown,
            np.clip(corners, -1e4, 1e4).round().astype(int).tolist(),
            COLOURS[colour % len(COLOURS)],
            dashed,
            rim=len(boxes) <= CROWDED,
        )
    return cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _part(size: tuple[int, int], boxes: Sequence[Box]) -> tuple[int, int, int, int]:
    """xyxy of the pixels to show around `boxes`, within the image of `size` (h, w)."""
    h, w = size
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    low = np.clip(np.minimum(corners[:, :2], corners[:, 2:]).min(0), 0, (w - 1, h - 1))
    high = np.clip(np.maximum(corners[:, :2], corners[:, 2:]).max(0), low, (w, h))
    margin = max(
        SURROUNDINGS * float((high - low).max()), (LEAST_CROP_PX - float((high - low).max())) / 2
    )
    x1, y1 = np.floor(np.clip(low - margin, 0, None)).astype(int).tolist()
    x2, y2 = np.ceil(np.clip(high + margin, None, (w, h))).astype(int).tolist()
    whole = max((x2 - x1) / w, (y2 - y1) / h) > LARGEST_CROP
    return (0, 0, w, h) if whole else (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))


def _draw(
    image: np.ndarray, corners: Sequence[int], colour: tuple[int, int, int], dashed: bool, rim: bool
) -> None:
    """A box with a dark rim, so that it shows on any ground, or dashed, so that it shows upon
    another; without area: a cross.
    """
    x1, y1, x2, y2 = corners
    if x2 - x1 < 2 or y2 - y1 < 2:
        middle = ((x1 + x2) // 2, (y1 + y2) // 2)
        for ink, thick in (((0, 0, 0), 5), (colour, 2)):
            cv2.drawMarker(image, middle, ink, cv2.MARKER_TILTED_CROSS, 26, thick)
        return
    if not dashed:
        if rim:
            cv2.rectangle(image, (x1, y1), (x2, y2), (0, 0, 0), LINE_PX + 1)
        cv2.rectangle(image, (x1, y1), (x2, y2), colour, LINE_PX)
        return
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        steps = max(int(np.hypot(end[0] - start[0], end[1] - start[1]) / DASH_PX), 1)
        points = np.linspace(start, end, steps + 1).round().astype(int).tolist()
        for one, other in list(zip(points, points[1:], strict=False))[::2]:
            cv2.line(image, one, other, colour, LINE_PX)
