"""The proxies that the environment names, in the form that all libraries read alike.

Prefect (httpx), MLflow (requests), websockets, DVC and git each read `HTTP_PROXY`, `HTTPS_PROXY`,
`ALL_PROXY` and `NO_PROXY` by rules of their own: one takes `host:port` for an address and another
does not; httpx raises at `NO_PROXY=[::1]:80` even where nobody asks for a proxy. Here what is
meant is written so that each understands it, and this machine is never asked for by a proxy.
Standard library only.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import urllib.parse
from collections.abc import MutableMapping

from engine.errors import ConfigError
from engine.project.redaction import hide

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXCEPTIONS = "no_proxy"
SCHEMES = ("http", "https", "socks5", "socks5h")
SOCKS = ("socks5", "socks5h")
OWN = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = "*"
_HOST = re.compile(r"\.?(\*\.?)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?(:[0-9]{1,5})?", re.ASCII)
# Servers that a command of the project asks, and what their clients need for a SOCKS proxy.
SERVERS = {"PREFECT_API_URL": "python_socks", "MLFLOW_TRACKING_URI": "socks"}
PACKAGES = {"python_socks": "python-socks", "socks": "PySocks"}


def prepare_proxies(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Bring the variables into that form; a sentence for each word that nobody can use, which is
    left out.

    Raises:
        ConfigError: such a word names the proxy by which a server of the team would be asked.
    """
    names = [name for name in (*PROXIES, EXCEPTIONS) if _given(environ, name) is not None]
    if not names:
        return []
    said = []
    exceptions, unusable = _exceptions(_given(environ, EXCEPTIONS) or "")
    if unusable:
        said.append(
            f"NO_PROXY: {', '.join(unusable)} is read by no library here and left out; "
            "it takes names, addresses and NAME:PORT, with commas between."
        )
    remote = [] if exceptions == [EVERYWHERE] else _remote_servers(environ)
    for name in names:
        if name == EXCEPTIONS:
            continue
        value, why = _proxy(_given(environ, name) or "")
        if why:
            told = f"{name.upper()}={hide(value)} is no proxy that can be used ({why})"
            if remote:
                raise ConfigError(
                    f"{told}, and {remote[0]} names a server that may need one. Correct it, or "
                    f"unset it: a proxy is {' or '.join(SCHEMES)}://HOST:PORT."
                )
            said.append(f"{told}; nothing of this run goes by a proxy for it.")
        elif value.startswith(SOCKS):
            _require_socks(name, remote)
        _set(environ, name, "" if why else value)
    _set(environ, EXCEPTIONS, ",".join(exceptions))
    return said


def _given(environ: MutableMapping[str, str], name: str) -> str | None:
    """The value; as everywhere, the small letters count before the large ones."""
    for spelling in (name, name.upper()):
        if environ.get(spelling, "").strip():
            return environ[spelling].strip()
    return None


def _set(environ: MutableMapping[str, str], name: str, value: str) -> None:
    """Some libraries look at one spelling, some at the other; curl and git take http_proxy in small
    letters only.
    """
    for spelling in (name, name.upper()):
        if value:
            environ[spelling] = value
        else:
            environ.pop(spelling, None)


def _proxy(text: str) -> tuple[str, str]:
    """(the address with its scheme, why it cannot be used or "")."""
    value = text if "://" in text else f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return value, str(error)
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        return value, f"no {scheme} proxies, only {', '.join(SCHEMES)}"
    if not host:
        return value, "no host in it"
    return (value, "") if re.fullmatch(r"[\w.:-]+", host, re.ASCII) else (value, "no such host")


def _exceptions(text: str) -> tuple[list[str], list[str]]:
    """(hosts that no proxy is asked for, ours among them; words that nobody can use)."""
    kept: list[str] = []
    unusable = []
    for word in re.split(r"[\s,]+", text):  # blanks part words for curl
        host = word.partition("://")[2].rstrip("/") or word
        if host == EVERYWHERE:
            return [EVERYWHERE], []
        found = _host(host)
        if found:
            kept.append(found)
        elif word:
            unusable.append(word[:80])
    return list(dict.fromkeys([*kept, *OWN])), unusable


def _host(word: str) -> str | None:
    """`word` as all read it, None for what is neither name nor address."""
    bare = re.fullmatch(r"\[(.*?)\](:\d{1,5})?", word)  # a port with IPv6 is understood by nobody
    address, _, length = (bare[1] if bare else word).partition("/")
    try:
        version = ipaddress.ip_address(address.partition("%")[0]).version
    except ValueError:
        return word if not bare and _HOST.fullmatch(word) else None
    if version == 6:
        return None if length else address
    return word if not length or length.isdecimal() else None


def _remote_servers(environ: MutableMapping[str, str]) -> list[str]:
    """Variables that name a server on another machine."""
    found = []
    for name in SERVERS:
        value = environ.get(name, "")
        try:
            host = urllib.parse.urlsplit(value).hostname
        except ValueError:  # refused elsewhere, by its name
            continue
        if value.startswith(("http://", "https://")) and host not in OWN:
            found.append(name)
    return found


def _require_socks(name: str, remote: list[str]) -> None:
    for server in remote:
        module = SERVERS[server]
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"{name.upper()} is a SOCKS proxy, and the client of {server} needs a package for "
                f"that: pip install {PACKAGES[module]}. Or let NO_PROXY name that server."
            )
