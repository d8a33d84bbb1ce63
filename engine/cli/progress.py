"""Bars of `val` and `predict`: they follow an executor's events, and show nothing where the output
is no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


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
    with _bar("predict", wanted=not predictor.config.verbose) as bar:
        predictor.add_callback("on_predict_start", lambda p: bar.reset(total=p.total))
        predictor.add_callback("on_predict_batch_end", lambda p: bar.update(len(p.results)))
        yield


def _bar(what: str, wanted: bool = True) -> tqdm:
    return tqdm(
        desc=what,
        unit="image",
        leave=False,
        dynamic_ncols=True,
        disable=not (wanted and sys.stderr.isatty()),
    )
