"""Bytes of an http(s) address that somebody wrote down: limited in time and in size, and never led
into this machine or its network by the other side.

An answer may redirect, and a name may resolve, to 127.0.0.1, to 169.254.169.254 (the keys of a
cloud machine) or to a device in the building. So it is the connection that is checked: a name is
resolved once, in whichever way it is written, and the connection goes to an address that was looked
at. One inside is used only where the user's own address names it. What a proxy is asked for is
checked by what its name means here; the proxy resolves it itself.
Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO, Any

from engine.errors import DataError

CHUNK = 1 << 20
MAX_REDIRECTS = 5
AGENT = {"User-Agent": "detectflow"}
# IANA's registries of special-purpose addresses, what of them is not "globally reachable" for sure
# (https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry), and
# multicast. Python's `is_global` knows those of its release.
INSIDE_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
UNICAST = ipaddress.IPv6Network("2000::/3")  # the only part of IPv6 that is given out
INSIDE_IPV6 = tuple(  # of that part: protocols (Teredo, ORCHID), documentation, 6to4
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how IPv4 is reached from a network without it


class WebRefused(DataError):
    """An answer that is not read: where it leads to, how long it takes, how much it is."""


def fetch(
    url: str,
    target: IO[bytes],
    *,
    limit_bytes: int,
    idle_s: float,
    total_s: float,
    too_large: str,
    https_only: bool = False,
) -> int:
    """Write what `url` answers to `target`; its size in bytes.

    idle_s: the longest wait for the next bytes. total_s: for all together, redirects included.
    too_large: the message above `limit_bytes`.

    Raises:
        WebRefused: too large, too slow, or led to an address inside. OSError (URLError, HTTPError
            and TimeoutError are some), http.client.HTTPException, ValueError: it cannot be had.
    """
    with _Watch(total_s) as watch, watch.explained():
        opener = _opener(watch, https_only)
        request = _request(url)
        with opener.open(request, timeout=idle_s) as answer:
            size = 0
            while chunk := answer.read(CHUNK):
                size += len(chunk)
                if size > limit_bytes:
                    raise WebRefused(too_large)
                target.write(chunk)
            expected = answer.headers.get("Content-Length")
        # A connection that the watch has closed looks like an end.
        if not watch.is_over and expected is not None and expected.isdecimal():
            if size != int(expected):
                raise OSError(f"ended after {size} of {expected} bytes")
    return size


def _request(url: str) -> urllib.request.Request:
    """`http://user:password@host/` as a request with a login, for this host alone."""
    parts = urllib.parse.urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(netloc=place)), headers=AGENT
    )
    if at:
        token = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def shown(url: str) -> str:
    """An address for a message: without a login, and without the values of a query, where signed
    addresses have their keys.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # [::
        return url.rpartition("@")[2].partition("?")[0]
    query = re.sub(r"=[^&;]*", "=...", parts.query)
    return urllib.parse.urlunsplit(
        parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query)
    )


def is_outside(address: str) -> bool:
    """Whether an IP address (as the system writes it) is one of the internet's: not of this
    machine, its network or its provider's, however it is wrapped in IPv6.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in INSIDE_IPV4)
    if ip in NAT64:
        return is_outside(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip in UNICAST and not any(ip in network for network in INSIDE_IPV6)


class _Watch:
    """One fetch: which addresses inside the user has named, and when it has to be over."""

    def __init__(self, total_s: float):
        self.total_s = total_s
        self.deadline = time.monotonic() + total_s
        self.is_over = False
        self.named: set[str] | None = None  # None: nothing was asked yet
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(total_s, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Watch:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for each in self._sockets:
            each.close()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What a connection that was closed under the reader looks like, by its true name."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError):
            if not self.is_over:
                raise
        if self.is_over:
            raise WebRefused(f"took longer than {self.total_s:g} s") from None

    def connect(self, host: str, port: int, timeout: float, is_proxy: bool) -> socket.socket:
        """A connection to an address of `host` that may be used.

        Raises:
            OSError: there is none. WebRefused: none may be used.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        allowed = found if is_proxy else self._allowed(host, found)
        error: OSError | None = None
        for family, kind, protocol, _, address in allowed:
            left = self.deadline - time.monotonic()
            if left <= 0:
                break
            try:
                opened = socket.socket(family, kind, protocol)
            except OSError as failed:  # no IPv6 on this machine
                error = failed
                continue
            try:
                opened.settimeout(min(timeout, left))
                opened.connect(address)
                opened.settimeout(timeout)
                self._sockets.append(opened.dup())  # TLS takes this one over; the watch needs one
                return opened
            except OSError as failed:
                error = failed
                opened.close()
        raise error or TimeoutError("no connection in time")

    def check_by_proxy(self, host: str) -> None:
        """The same question for a host that a proxy is going to ask; one that is not known here is
        let be.
        """
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            found = []
        self._allowed(host, found)

    def _allowed(self, host: str, found: list[Any]) -> list[Any]:
        inside = {str(each[4][0]) for each in found if not is_outside(str(each[4][0]))}
        if self.named is None:  # the user's own word
            self.named = inside
        allowed = [each for each in found if str(each[4][0]) not in inside - self.named]
        if inside and not allowed:
            raise WebRefused(
                f"leads to {host}, which is {min(inside)}: inside this machine or its network. "
                "If that is meant, give that address itself"
            )
        return allowed

    def _end(self) -> None:
        self.is_over = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _opener(watch: _Watch, https_only: bool) -> urllib.request.OpenerDirector:
    """What opens http and https, and nothing else that urllib knows (ftp, files, data)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Proxies(),
        _Http(watch),
        _Https(watch),
        _Redirects(https_only),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Proxies(urllib.request.ProxyHandler):
    """The environment's proxies, but none for this machine."""

    def proxy_open(self, req: Any, proxy: str, type: str) -> Any:
        host = urllib.parse.urlsplit(f"//{req.host}").hostname or ""
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).is_loopback:
                return None
        return None if host == "localhost" else super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def __init__(self, https_only: bool):
        self.schemes = ("https://",) if https_only else ("http://", "https://")

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.lower().startswith(self.schemes):
            known = " or ".join(scheme[:-3] for scheme in self.schemes)
            raise WebRefused(f"redirected to {shown(newurl)}, which is not {known}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self.watch = watch

    def http_open(self, req: Any) -> Any:
        return self.do_open(_PlainConnection, req, **_guard(self.watch, req))


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch):
        self.trusted = ssl.create_default_context()
        super().__init__(context=self.trusted)
        self.watch = watch

    def https_open(self, req: Any) -> Any:
        return self.do_open(_TlsConnection, req, context=self.trusted, **_guard(self.watch, req))


def _guard(watch: _Watch, req: Any) -> dict[str, Any]:
    """Arguments of a connection for a request, which a proxy may be going to make."""
    wanted = urllib.parse.urlsplit(req.full_url)
    is_proxy = req.host != wanted.netloc
    if is_proxy:
        watch.check_by_proxy(wanted.hostname or "")
    return {"watch": watch, "is_proxy": is_proxy}


class _Guarded:
    """http.client's own connect() makes tunnels and TLS; how it opens the socket is replaced."""

    def __init__(self, host: str, *, watch: _Watch, is_proxy: bool, **options: Any):
        super().__init__(host, **options)
        self.watch, self.is_proxy = watch, is_proxy
        self._create_connection = self._open

    def _open(self, address: tuple[str, int], timeout: float, *_: Any) -> socket.socket:
        return self.watch.connect(*address, timeout, self.is_proxy)


class _PlainConnection(_Guarded, http.client.HTTPConnection):
    pass


class _TlsConnection(_Guarded, http.client.HTTPSConnection):
    pass
