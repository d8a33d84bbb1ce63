"""One HTML page with images in it: opens from anywhere, asks no network, follows light and dark,
fits a phone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

Box = Sequence[float]  # xyxy pixels of the image as shown

IMAGE_PX = 340  # longer side of an image on the page
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


TEMPLATE = """
{%- macro cell(tag, value, style="") -%}
{%- if value is sequence and value is not string -%}
<{{ tag }}><a href="#{{ value[1] }}">{{ value[0] }}</a></{{ tag }}>
{%- else -%}
<{{ tag }} class="{{ "n" if value is number else style }}">
{{- "{:,}".format(value) if value is integer else value }}</{{ tag }}>
{%- endif -%}
{%- endmacro -%}
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head><body>
<h1>{{ title }}</h1>
{% for part in parts %}
{%- if part.kind == "heading" -%}
<h2{% if part.anchor %} id="{{ part.anchor }}"{% endif %}>
{%- if part.mark %}<span class="mark {{ part.style }}">{{ part.mark }}</span> {% endif -%}
{{ part.text }}</h2>
{%- elif part.kind == "paragraph" -%}
<p class="{{ part.style }}">{{ part.text }}</p>
{%- elif part.kind == "lines" -%}
<ul>{% for text in part.texts %}<li>{{ text }}</li>{% endfor %}</ul>
{%- elif part.kind == "table" -%}
<div class="wide"><table{% if part.narrow %} class="narrow"{% endif %}><thead><tr>
{%- for text in part.head -%}
<th class="{{ "n" if part.rows and part.rows[0][loop.index0] is number else "" }}">{{ text }}</th>
{%- endfor %}</tr></thead><tbody>
{%- for row in part.rows -%}
{%- set mark = "mark " ~ part.styles[loop.index0] if loop.index0 < part.styles | length else "" -%}
<tr>{% for value in row %}{{ cell("td", value, mark if loop.first else "") }}{% endfor %}</tr>
{%- endfor %}</tbody></table></div>
{%- elif part.kind == "figures" -%}
<div class="grid">
{%- for figure in part.figures -%}
{%- set several = figure.images | length > 1 -%}
<figure class="{{ "two" if several else "" }}">{% if several %}<div class="pair">{% endif %}
{%- for image in figure.images -%}
<img alt="{{ figure.title }}" src="data:image/jpeg;base64,{{ image | base64 }}">
{%- endfor %}{% if several %}</div>{% endif -%}
<figcaption><b>{{ figure.title }}</b><br>{{ figure.text }}</figcaption></figure>
{%- endfor %}</div>
{%- endif %}
{% endfor -%}
</body></html>
"""


@dataclass(frozen=True)
class Figure:
    """Images side by side, each a JPEG, and what is said about them."""

    images: tuple[bytes, ...]
    title: str
    text: str = ""


@dataclass
class Page:
    """Collects the parts of a page; the template escapes every text."""

    title: str
    parts: list[dict[str, Any]] = field(default_factory=list)

    def heading(self, text: str, anchor: str = "", mark: str = "", style: str = "") -> None:
        """A section. mark: a word before it, in the colour of `style` (error, warning, note,
        good).
        """
        self._add("heading", text=text, anchor=anchor, mark=mark, style=style)

    def paragraph(self, text: str, style: str = "") -> None:
        self._add("paragraph", text=text, style=style)

    def lines(self, texts: Iterable[str]) -> None:
        if found := list(texts):
            self._add("lines", texts=found)

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
        self._add("table", head=head, rows=list(rows), styles=styles, narrow=narrow)

    def figures(self, figures: Iterable[Figure]) -> None:
        if found := list(figures):
            self._add("figures", figures=found)

    def _add(self, kind: str, **values: Any) -> None:
        self.parts.append({"kind": kind, **values})

    def __str__(self) -> str:
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
        style = Markup(STYLE)  # ours; not to be escaped
        return environment.from_string(TEMPLATE).render(
            title=self.title, parts=self.parts, style=style
        )


# Images --------------------------------------------------------------------------------------------


def crop_jpeg(
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
    gain = IMAGE_PX / max(part.shape[:2])
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
