"""Errors around the registry: MLflow's and the network's are told in words, faults in code are not
taken for them.
"""

import importlib
import logging

import pytest
import requests
import sqlalchemy.exc
import urllib3
from mlflow.exceptions import MlflowException, RestException

from engine.errors import ConfigError, DataError, WorkspaceError
from engine.lineage import from_mlflow
from engine.registry import version_description
from engine.registry.registry import described_errors
from engine.tracking.mlflow_client import is_of_store, open_store

OF_STORE = [
    MlflowException("full"),
    RestException({"error_code": "INTERNAL_ERROR", "message": "full"}),
    requests.ConnectionError("away"),
    urllib3.exceptions.ReadTimeoutError(None, "http://x", "slow"),
    sqlalchemy.exc.OperationalError("select 1", {}, Exception("disk I/O error")),
    PermissionError(13, "no"),
    TimeoutError("slow"),
]
FAULTS = [NameError("x"), AttributeError("x"), TypeError("x"), KeyError("x"), RuntimeError("x")]


@pytest.mark.parametrize("error", OF_STORE, ids=lambda error: type(error).__name__)
def test_what_mlflow_or_the_network_raises_is_told_with_advice(error, tmp_path):
    assert is_of_store(error)
    with pytest.raises(WorkspaceError, match="MLflow registry request failed.*run again"):
        with described_errors(tmp_path):
            raise error


@pytest.mark.parametrize(
    "error",
    [*FAULTS, ConfigError("our own"), DataError("our own")],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_in_code_and_our_own_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as raised:
        with described_errors(tmp_path):
            raise error
    assert raised.value is error


def test_only_a_missing_package_of_another_is_a_reason_to_install_mlflow(tmp_path):
    with pytest.raises(WorkspaceError, match="pip install mlflow"):
        with described_errors(tmp_path):
            importlib.import_module("a_package_that_is_not_there")
    with pytest.raises(ImportError), described_errors(tmp_path):
        from engine.registry.registry import nothing_of_this_name  # noqa: F401


class Client:
    def __init__(self, error):
        self.error = error

    def get_registered_model(self, name):
        raise self.error


class Store:
    def __init__(self, error):
        self.client = Client(error)


def test_a_page_that_cannot_be_written_is_told_and_a_fault_in_writing_it_raised(caplog):
    with caplog.at_level(logging.WARNING, "detectflow"):
        version_description.show_history(Store(MlflowException("full")), "cars", [])
    assert "the page of 'cars' in MLflow is not up to date (full)" in caplog.text
    with pytest.raises(AttributeError):
        version_description.show_history(Store(AttributeError("x")), "cars", [])


def test_a_server_that_refuses_is_a_sentence_and_a_fault_in_asking_it_raised(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    open_store(tmp_path)

    def fails_with(error):
        def ask(*arguments):
            raise error

        monkeypatch.setattr(from_mlflow, "_versions", ask)

    fails_with(MlflowException("full"))
    assert "did not answer" in from_mlflow.registry_evidence(tmp_path).unasked[0]
    fails_with(NameError("x"))
    with pytest.raises(NameError):
        from_mlflow.registry_evidence(tmp_path)
