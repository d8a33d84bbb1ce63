"""Images on a screen: in a notebook, in a window, with the viewer of the desktop. Where there is no
screen a sentence says so, once, and the program goes on: many run on servers too.
"""

from __future__ import annotations

import functools
import logging
import os
import sys

import cv2
import numpy as np

log = logging.getLogger("detectflow")


def show_image(image: np.ndarray, title: str, is_frame: bool = False) -> bool:
    """Show `image` (H, W, 3) uint8 BGR. False: it could not be shown, which was said.

    is_frame: of a video; such ones follow each other in one window, or are not shown.
    """
    if _in_notebook():
        from IPython.display import display

        display(_pillow(image))
        return True
    if not _has_screen():
        _say_once("there is no screen here to show images on; save=True, or save(), writes them")
        return False
    if _has_windows():
        cv2.imshow(title, image)
        cv2.waitKey(1 if is_frame else 300)
        return True
    if is_frame:
        _say_once(
            "frames of a video are shown in a window, which this OpenCV has not (`pip install "
            "opencv-python` in place of opencv-python-headless); save=True writes them"
        )
        return False
    from PIL import ImageShow

    if ImageShow.show(_pillow(image), title):
        return True
    _say_once("no program to show images with was found; save=True, or save(), writes them")
    return False


def _pillow(image: np.ndarray):
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _has_screen() -> bool:
    on_unix = sys.platform not in ("darwin", "win32")
    return not on_unix or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@functools.cache
def _has_windows() -> bool:
    """Whether this OpenCV can open windows; the headless one cannot."""
    lines = (line.split() for line in cv2.getBuildInformation().splitlines())
    return not any(words[:2] == ["GUI:", "NONE"] for words in lines)


@functools.cache
def _say_once(text: str) -> None:
    log.warning("show: %s", text)
