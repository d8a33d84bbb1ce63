"""The prediction loop: batches of inputs through a model, results one by one. Knows no boxes and no
images.

A subclass says how to read a source, what a batch looks like to the model, and what the outputs
mean. The loop is a generator at heart: memory stays flat whatever the length of the source. An
input that cannot be read is counted in `predictor.skipped` and the rest goes on. Events (an
instance's own, in this order):

    on_predict_start
        on_predict_batch_start      predictor.batch: the views of this step
        on_predict_batch_end        predictor.results: what came out
    on_predict_end                  always, also when the consumer stops early or an input raises
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from engine.config.device import DEVICES, Device
from engine.core.events import PREDICT_EVENTS, Callbacks
from engine.errors import ConfigError, DataError
from engine.settings.base import Frozen


class LoopConfig(Frozen):
    """What the loop itself reads, and what any model needs; a task has a class of its own."""

    model: str = Field("", description="what `get_model` loads")
    source: Any = Field(None, description="what `get_source` opens")
    batch: int = Field(16, ge=1, description="views per step")
    device: Device = Field("auto", description=DEVICES)
    stream: bool = Field(False, description="yield results one by one with flat memory")


class BasePredictor:
    """Predict, from anything. Override `get_model`, `get_source`, `preprocess`, `postprocess`, and
    what else differs.
    """

    config_class: ClassVar[type[Frozen]] = LoopConfig

    def __init__(self, overrides: Mapping[str, Any] | None = None):
        """`overrides`: values of `config_class`, checked at once (ConfigError names an unknown
        key's neighbour).
        """
        self.config = self.config_class.build(overrides, where="predict")
        self.callbacks = Callbacks(PREDICT_EVENTS)
        self.model: Any = None
        self.batch: list[Any] = []  # views of the running batch
        self.results: list[Any] = []  # results complete with it
        self.skipped: list[Any] = []  # inputs of this run that could not be read
        self.seen = 0  # inputs of this run that were read
        self.speed_ms = {
            "preprocess": 0.0,
            "inference": 0.0,
            "postprocess": 0.0,
        }  # per view, of the running batch

    # -- what a subclass says ----------------------------------------------------------------------
    def get_model(self) -> Callable[[Any], Any]:
        """A callable from the output of `preprocess` to the input of `postprocess`; called once,
        before the first.
        """
        raise NotImplementedError

    def get_source(self, source: Any) -> Iterable[Any]:
        """An iterable of inputs; raises DataError when there is nothing. `is_skipped` knows the
        unreadable ones.
        """
        raise NotImplementedError

    def is_skipped(self, item: Any) -> bool:
        """Whether an item of the source stands for an input that could not be read."""
        return isinstance(item, Exception)

    def views(self, item: Any) -> Iterable[Any]:
        """What the model is to see of one input: itself, or several parts; batches are made of
        views.
        """
        return (item,)

    def batch_size(self, source: Iterable[Any]) -> int:
        """Views per step."""
        return self.config.batch

    def preprocess(self, batch: Sequence[Any]) -> Any:
        """The model's input for a list of views."""
        raise NotImplementedError

    def inference(self, inputs: Any) -> Any:
        """The model's output."""
        return self.model(inputs)

    def postprocess(self, outputs: Any, batch: Sequence[Any]) -> list[Any]:
        """The results of all inputs that are complete with this batch of views, in order."""
        raise NotImplementedError

    def write_results(self, result: Any) -> None:
        """Keep a result on disk; by default nothing is written."""

    # -- the loop ----------------------------------------------------------------------------------
    def __call__(self, source: Any = None, stream: bool | None = None) -> list[Any] | Iterator[Any]:
        """Results of all inputs as a list, or with `stream=True` as a generator that holds one
        batch at a time.

        Raises DataError when the source does not exist, is empty, or not one of its inputs could be
        read.
        """
        stream = self.config.stream if stream is None else stream
        opened = self._open(
            source
        )  # here, not in the generator: a wrong path is an error at the call
        return (
            self._run(opened) if stream else [self.retain(result) for result in self._run(opened)]
        )

    def retain(self, result: Any) -> Any:
        """What a list keeps of a result; a subclass drops what is large and can be had again."""
        return result

    def add_callback(self, event: str, function: Callable[[Any], None]) -> None:
        """Call `function(predictor)` at `event`, after those already there."""
        self.callbacks.add(event, function)

    def set_callback(self, event: str, function: Callable[[Any], None]) -> None:
        """Call `function(predictor)` at `event`, in place of those already there."""
        self.callbacks.set(event, function)

    def setup(self) -> None:
        """Load the model, once."""
        if self.model is None:
            self.model = self.get_model()

    def _open(self, source: Any) -> Iterable[Any]:
        given = self.config.source if source is None else source
        if given is None:
            raise ConfigError(
                "predict: no source given: set source= or call the predictor with one"
            )
        self.setup()
        return self.get_source(source=given)

    def _run(self, source: Iterable[Any]) -> Iterator[Any]:
        self.skipped, self.seen = [], 0
        self.callbacks.run("on_predict_start", self)
        try:
            for batch in self._batches(source):
                yield from self._predict_batch(batch)
            if self.skipped and not self.seen:
                more = f" ({len(self.skipped)} in all)" if len(self.skipped) > 1 else ""
                raise DataError(f"No input could be read{more}: {self.skipped[0]}")
        finally:
            self.batch, self.results = [], []
            self.callbacks.run("on_predict_end", self)

    def _batches(self, source: Iterable[Any]) -> Iterator[list[Any]]:
        size = self.batch_size(source)
        batch: list[Any] = []
        for item in source:
            if self.is_skipped(item):
                self.skipped.append(item)
                self.report_skipped(item)
                continue
            self.seen += 1
            for view in self.views(item):
                batch.append(view)
                if len(batch) == size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def report_skipped(self, item: Any) -> None:
        """Say that an input was left out; the count stands in `skipped`."""

    def _predict_batch(self, batch: list[Any]) -> list[Any]:
        self.batch, self.results = batch, []
        self.speed_ms = dict.fromkeys(self.speed_ms, 0.0)  # of this batch: its results hold it
        self.callbacks.run("on_predict_batch_start", self)
        started = time.perf_counter()
        inputs = self.preprocess(batch=batch)
        prepared = time.perf_counter()
        outputs = self.inference(inputs=inputs)
        inferred = time.perf_counter()
        self.results = self.postprocess(outputs=outputs, batch=batch)
        ended = time.perf_counter()
        steps = {
            "preprocess": prepared - started,
            "inference": inferred - prepared,
            "postprocess": ended - inferred,
        }
        self.speed_ms.update({name: 1000 * seconds / len(batch) for name, seconds in steps.items()})
        for result in self.results:
            self.write_results(result=result)
        self.callbacks.run("on_predict_batch_end", self)
        return self.results
