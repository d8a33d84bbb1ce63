"""Bars of `val` and `predict`: they follow an executor's events. Where the output is no terminal,
lines now and then take their place; those of a validation are its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from engine.core.progress import ProgressLines, has_terminal


@contextmanager
def validation_bar(validator: Any) -> Iterator[None]:
    """Counts the images of this process; the total is known with the dataset."""
    with _bar("val") as bar:
        validator.add_callback("on_val_start", lambda v: bar.reset(total=len(v.loader.sampler)))
        validator.add_callback("on_val_batch_end", lambda v: bar.update(v.batch_size(v.batch)))
        yield


@contextmanager
def prediction_bar(predictor: Any) -> Iterator[None]:
    """Counts inputs; without a total for videos and cameras. A line per image (`verbose`) shows the
    same in argv.
    """
    wanted = not predictor.config.verbose
    with _bar("predict", wanted) as bar:
        lines: list[ProgressLines] = []

        def begin(p: Any) -> None:
            bar.reset(total=p.total)
            lines[:] = [ProgressLines("predict", p.total, "image", wanted)]

        def go_on(p: Any) -> None:
            bar.update(len(p.results))
            lines[0].show(p.seen)

        predictor.add_callback("on_predict_start", begin)
        predictor.add_callback("on_predict_batch_end", go_on)
        yield


def _bar(what: str, wanted: bool = True) -> tqdm:
    return tqdm(
        desc=what,
        unit="image",
        leave=False,
        dynamic_ncols=True,
        disable=not (wanted and has_terminal()),
    )
