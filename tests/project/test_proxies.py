"""Proxies of the environment: this machine is never asked for by one, every library understands what
is written, and what none understands is one sentence.
"""

import logging
import os
import subprocess
import sys

import httpx
import hypothesis.strategies as st
import pytest
import requests
from hypothesis import example, given
from workspaces import clean_environment, copy_project

from engine.errors import ConfigError
from engine.project import proxies
from engine.project.environment import prepare_environment
from engine.project.proxies import prepare_proxies

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
LOCAL = "127.0.0.1,localhost,::1"
DEAD = "http://127.0.0.1:9"


def prepared(**given):
    said = prepare_proxies(given)
    return given, said


def everybody_understands(environ):
    """What httpx, requests and websockets make of it: a client, and no proxy for this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            for spelling in (name, name.upper()):
                patch.delenv(spelling, raising=False)
        for name, value in environ.items():
            patch.setenv(name, value)
        with httpx.Client() as client:
            for url in ("http://127.0.0.1:4200/api", "http://localhost:1/", "http://[::1]:2/"):
                assert client._transport_for_url(httpx.URL(url)) is client._transport, url
        for url in ("http://127.0.0.1:4200/api", "http://localhost:1/"):
            assert requests.utils.get_environ_proxies(url) == {}, url


def test_nothing_given_is_nothing_done():
    assert prepared() == ({}, [])
    assert prepared(HTTP_PROXY="", NO_PROXY=" ")[1] == []


def test_a_proxy_is_kept_for_others_and_never_asked_for_this_machine():
    environ, said = prepared(HTTPS_PROXY="proxy.example:3128", no_proxy="intranet")
    assert said == []
    assert environ == {
        "https_proxy": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "no_proxy": f"intranet,{LOCAL}",
        "NO_PROXY": f"intranet,{LOCAL}",
    }
    everybody_understands(environ)
    again, said = prepared(**environ)  # by a child
    assert (again, said) == (environ, [])


@pytest.mark.parametrize(
    "text, kept",
    [
        ("*", "*"),
        ("a, *", "*"),
        ("::1", "::1,127.0.0.1,localhost"),
        ("[::1]", "::1,127.0.0.1,localhost"),
        ("[::1]:80", "::1,127.0.0.1,localhost"),
        (" a ,, b\tc:80 ", f"a,b,c:80,{LOCAL}"),
        (".example.org,*.example.net", f".example.org,*.example.net,{LOCAL}"),
        ("http://a/", f"a,{LOCAL}"),
        ("10.0.0.0/8,10.1.2.3:80", f"10.0.0.0/8,10.1.2.3:80,{LOCAL}"),
        ("127.0.0.1,localhost", LOCAL),
    ],
)
def test_odd_exceptions_are_read_as_they_are_meant(text, kept):
    environ, said = prepared(NO_PROXY=text, ALL_PROXY="socks5h://127.0.0.1:1")
    assert environ["no_proxy"] == environ["NO_PROXY"] == kept and said == []
    everybody_understands(environ)


@pytest.mark.parametrize(
    "word", ["fe80::/10", "a:port", "[", "<local>", "b\u00fccher.example", "a;b"]
)
def test_what_nobody_can_read_is_left_out_and_named(word):
    environ, (said,) = prepared(NO_PROXY=f"a,{word}")
    assert environ["no_proxy"] == f"a,{LOCAL}"
    assert said.startswith(f"NO_PROXY: {word} is read by no library here and left out; ")
    everybody_understands(environ)


UNUSABLE = {
    "socks4://h:1": "no socks4 proxies",
    "ftp://h:1": "no ftp proxies",
    "http://": "no host in it",
    "http://h:port": "Port could not be cast",
    "http://h:99999": "Port out of range",
    "http://[::1": "Invalid IPv6 URL",
    "://": "no  proxies",
    "a b": "no such host",
}


@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_nonsense_is_a_sentence_for_a_local_run_and_refused_where_a_server_may_need_it(name, value):
    environ, (said,) = prepared(**{name: value})
    assert f"{name.upper()}=" in said and UNUSABLE[value] in said
    assert environ == {"no_proxy": LOCAL, "NO_PROXY": LOCAL}
    everybody_understands(environ)
    with pytest.raises(ConfigError, match=f"{name.upper()}=.*MLFLOW_TRACKING_URI.*HOST:PORT"):
        prepared(**{name: value}, MLFLOW_TRACKING_URI="https://mlflow.example.org")
    local = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "PREFECT_API_URL": "http://[::1]:1/"}
    assert len(prepared(**{name: value}, **local)[1]) == 1


def test_a_password_is_not_shown():
    for value in ("socks4://anna:hunter2@h:1", "anna:hunter2@h:port"):
        (said,) = prepared(HTTP_PROXY=value)[1]
        assert "hunter2" not in said and "***" in said


def test_a_socks_proxy_before_a_server_of_the_team_names_what_is_lacking(monkeypatch):
    team = {"PREFECT_API_URL": "https://prefect.example.org/api"}
    monkeypatch.setattr(proxies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="ALL_PROXY is a SOCKS proxy.*pip install python-socks"):
        prepared(ALL_PROXY="socks5h://127.0.0.1:1", **team)
    monkeypatch.setattr(proxies.importlib.util, "find_spec", lambda name: name)
    assert prepared(ALL_PROXY="socks5h://127.0.0.1:1", **team)[1] == []
    monkeypatch.undo()
    assert prepared(ALL_PROXY="socks5h://127.0.0.1:1")[1] == []


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30) | st.text(
    "[]:/*.,@ 1af%socks-", max_size=20
)


@given(all_proxy=words, no_proxy=words)
@example("socks5h://[fe80::1%eth0]:1", "fe80::1%eth0")
def test_whatever_is_written_every_client_can_be_made(all_proxy, no_proxy):
    environ, said = prepared(ALL_PROXY=all_proxy, NO_PROXY=no_proxy)
    assert all("\n" not in each for each in said) or "\n" in all_proxy + no_proxy
    everybody_understands(environ)


def test_every_command_does_it_and_says_it_once(tmp_path, monkeypatch, caplog):
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text("{}\n")
    for name in (*NAMES, *map(str.upper, NAMES)):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("HTTP_PROXY='socks4://h:1'\n")
    with caplog.at_level(logging.WARNING):
        prepare_environment(tmp_path)
    assert [each.getMessage()[:25] for each in caplog.records] == ["HTTP_PROXY=socks4://h:1 i"]
    assert "HTTP_PROXY" not in os.environ and os.environ["NO_PROXY"] == LOCAL


TINY = {
    "data.options": "{train: 4, val: 2, test: 2, size: 64, max_px: 32}",
    "train.imgsz": "64",
    "train.epochs": "1",
    "train.batch": "4",
    "train.plots": "false",
    "train.device": "cpu",
    "export.check_images": "2",
}


@pytest.mark.system
def test_a_local_run_goes_through_whatever_proxies_there_are(tmp_path):
    root = copy_project(tmp_path / "project")
    odd = {
        "ALL_PROXY": "socks5h://127.0.0.1:9",
        "HTTP_PROXY": DEAD,
        "https_proxy": "socks4://127.0.0.1:9",
        "NO_PROXY": "[::1]:80, fe80::/10",
    }
    words = [word for key, value in TINY.items() for word in ("-S", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "engine", "run", *words],
        cwd=root,
        env={**clean_environment(), **odd},
        capture_output=True,
        text=True,
        timeout=400,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in text, text
    assert text.count("fe80::/10 is read by no library here") == 1
    assert text.count("HTTPS_PROXY=socks4://127.0.0.1:9 is no proxy that can be used") == 1
    assert done.stderr.index("is no proxy") < done.stderr.index("prepare")
