"""The style of all figures: colours that colour-blind people can distinguish, and writing a figure
whole or not at all.

Figures use matplotlib's object interface (no pyplot, no global state, no screen) and import it only
when one is drawn.
Palette: the seven of Okabe and Ito, Color Universal Design (2008), and thirteen more, each chosen
to lie farthest from those before it in CIELAB, for full and for red-green-blind sight (Machado et
al. 2009) together; then evenly spread hues.
"""

from __future__ import annotations

import colorsys
import functools
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.files import atomic_write
from engine.plots.fonts import drawable_names, font_families, needs_other_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RGB = tuple[int, int, int]

_one_at_a_time = threading.Lock()

PALETTE: tuple[RGB, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # green
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky
    (204, 121, 167),  # purple
    (240, 228, 66),  # yellow
    (120, 0, 15),  # maroon
    (255, 180, 135),  # peach
    (60, 30, 135),  # indigo
    (105, 105, 0),  # olive
    (135, 135, 255),  # lavender
    (150, 15, 120),  # magenta
    (255, 90, 120),  # coral
    (120, 195, 75),  # grass
    (45, 90, 60),  # forest
    (60, 225, 225),  # cyan
    (165, 210, 180),  # mint
    (135, 90, 60),  # brown
    (60, 45, 90),  # plum
)
LIGHTEST = 0.4  # luminance of a line that is still seen on white
INK = "#222222"
MUTED = "#8a8a8a"
GRID = "#e6e6e6"


@functools.lru_cache(maxsize=4096)
def class_colour(index: int) -> RGB:
    """The colour of a class, the same in every image of every run."""
    if 0 <= index < len(PALETTE):
        return PALETTE[index]
    hue = index * 0.61803398875 % 1  # the golden ratio: neighbours in number lie far apart in hue
    red, green, blue = colorsys.hls_to_rgb(hue, (0.38, 0.55, 0.68)[index % 3], 0.7)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(colour: RGB) -> RGB:
    """Black or white, whichever contrasts more (WCAG)."""
    return (0, 0, 0) if luminance(colour) > 0.179 else (255, 255, 255)


def luminance(colour: RGB) -> float:
    """WCAG relative luminance, 0 black to 1 white."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def mpl_colour(index: int) -> tuple[float, float, float]:
    """`class_colour` as matplotlib takes it, a shade darker where it would vanish on white."""
    colour = class_colour(index)
    shade = min(1.0, (LIGHTEST / max(luminance(colour), LIGHTEST)) ** (1 / 2.2)) / 255
    return colour[0] * shade, colour[1] * shade, colour[2] * shade


def shorten(text: str, most: int = 24) -> str:
    """Cut a long name in the middle, where names differ least."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def new_figure(width_in: float, height_in: float) -> Figure:
    """A white figure that lays itself out without clipping; draw on `figure.subplots()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Title, axis names, a quiet grid, no box."""
    axes.set_title(title, fontsize=11, color=INK, loc="left", fontweight="bold")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def note(axes: Axes, text: str) -> None:
    """A line in the middle of axes that have nothing to show, in place of their scales."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=11
    )
    axes.set_xticks([])
    axes.set_yticks([])


def plain(names: Sequence[str], most: int = 24) -> list[str]:
    """Names on one line, drawable, shortened but still distinct, and safe from matplotlib's reading
    of `$...$` as mathematics and of a leading `_` as "not in the legend".
    """
    lines = [name or "(no name)" for name in drawable_names(names)]
    short = [shorten(line, most) for line in lines]
    again = Counter(short)
    short = [
        text if again[text] == 1 else shorten(f"{i} {lines[i]}", most)
        for i, text in enumerate(short)
    ]
    return [(" " if text.startswith("_") else "") + text.replace("$", r"\$") for text in short]


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically as PNG or JPEG, by the suffix. Same data, same bytes: no dates
    inside.
    """
    path = Path(path)
    kind = {".jpg": "jpg", ".jpeg": "jpg"}.get(path.suffix.lower(), "png")
    import matplotlib
    from matplotlib.text import Text

    fonts = font_families()
    for text in figure.findobj(Text):
        if not text.get_text() or needs_other_fonts(
            text.get_text()
        ):  # a tick gets its text when it is drawn
            text.set_fontfamily(fonts)
    # More ticks may come. The setting is the whole process's, and plots of an epoch are drawn
    # beside its training.
    with (
        _one_at_a_time,
        atomic_write(path) as stream,
        matplotlib.rc_context({"font.family": fonts}),
    ):
        figure.savefig(stream, format=kind, metadata={"Software": None} if kind == "png" else None)
    return path
