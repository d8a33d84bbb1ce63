"""What Prefect does not take ends no run; whose fault it is, is told."""

import logging

import httpx
import pytest

from flows import artifacts


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("away"), "does not take the result (ConnectError); the run goes on"),
        (ConnectionError("it has gone"), "does not take the result (it has gone)"),
    ],
)
def test_a_server_that_is_away_is_one_line(error, said, monkeypatch, caplog):
    shown(error, monkeypatch, caplog)
    assert said in caplog.text and not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("error", [NameError("x"), TypeError("x"), KeyError("x")])
def test_a_fault_in_code_is_told_as_one_with_its_traceback(error, monkeypatch, caplog):
    shown(error, monkeypatch, caplog)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info[1] is error
    assert "a fault in code" in caplog.text and "server does not take" not in caplog.text


def shown(error, monkeypatch, caplog):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(artifacts, "is_gone", lambda: False)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", fail)
    with caplog.at_level(logging.WARNING):
        artifacts.show_result("all is well")
