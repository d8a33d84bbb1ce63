"""Ctrl-C is a wish of the user, no crash: runs that it ends are Cancelled in Prefect.

Prefect itself calls every run Crashed that ends by a KeyboardInterrupt, which alarms and
automations take for a fault. A flow or a task that returns a state of its own is put into that
state; whoever called it gets the KeyboardInterrupt all the same. SIGTERM is nothing that a user
does at a terminal; it stays a crash, unless Prefect asked for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun
from prefect.states import Cancelled

from engine.errors import Terminated

INTERRUPTED = "Interrupted by Ctrl-C. What was done is kept: the next run goes on from there."


class Interrupted(CancelledRun):
    """Stands for the KeyboardInterrupt in a state: Prefect raises what a state holds in a thread of
    its own, which a KeyboardInterrupt would end.
    """

    def __init__(self, interrupt: KeyboardInterrupt) -> None:
        super().__init__(INTERRUPTED)
        self.interrupt = interrupt  # what a caller gets


class InterruptedFlow(Flow[..., Any]):
    """A flow whose caller gets the KeyboardInterrupt that cancelled it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except Interrupted as error:
            raise error.interrupt from None


def cancelled_by_interrupt(flow: Flow[..., Any]) -> Flow[..., Any]:
    """The same flow, which Ctrl-C leaves as Cancelled; to be put above `@flow`.

    `@flow` stays in the source, where Prefect looks for it, and has read file, name and parameters
    from the function before this one changes what is called.
    """
    flow.fn = or_cancelled(flow.fn)
    flow.__class__ = InterruptedFlow
    return flow


def or_cancelled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which returns a state where Ctrl-C ends it."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Terminated:
            raise
        except KeyboardInterrupt as error:
            return Cancelled(message=INTERRUPTED, data=Interrupted(error))

    return run


def value_of(result: Any) -> Any:
    """What a task returned.

    Raises:
        KeyboardInterrupt: it was cancelled by one.
    """
    if isinstance(result, State):
        found = getattr(result.data, "result", result.data)  # Prefect puts it into a record
        raise found.interrupt if isinstance(found, Interrupted) else KeyboardInterrupt
    return result
