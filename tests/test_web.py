"""Fetching an address: never led inside by the other side, never for longer or more than said.
Real servers on loopback; 127.0.0.1 is the address that the user names, 127.0.0.2 one that he does not.
"""

import contextlib
import http.server
import io
import ipaddress
import socket
import socketserver
import threading
import time
import urllib.error

import pytest

from engine import web

BODY = b"the body"
DEFAULTS = {"limit_bytes": 1000, "idle_s": 5, "total_s": 10, "too_large": "too large"}


def fetch(url, **options):
    body = io.BytesIO()
    size = web.fetch(url, body, **{**DEFAULTS, **options})
    assert size == len(body.getvalue())
    return body.getvalue()


@contextlib.contextmanager
def serving(handler, address="127.0.0.1", kind=http.server.ThreadingHTTPServer):
    with kind((address, 0), handler) as server:
        server.daemon_threads = True
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Handler(http.server.BaseHTTPRequestHandler):
    """/to/ADDRESS redirects there, anything else gives the body."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if "/to/" in self.path:
            self.send_response(302)
            self.send_header("Location", self.path.partition("/to/")[2])
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def named():
    with serving(Handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server


@pytest.fixture
def other():
    """What is not to be reached."""
    with serving(Handler, "127.0.0.2") as server:
        yield server


@pytest.fixture
def names(monkeypatch):
    """Names and what they resolve to, each time the next one."""
    known, asked = {}, []
    real = socket.getaddrinfo

    def resolve(host, port, *args, **options):
        asked.append(host)
        if host in known:
            host = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    known["asked"] = asked
    return known


def test_what_the_user_names_is_fetched_wherever_it_is(named):
    assert fetch(f"{named.url}/a") == BODY
    assert fetch(f"{named.url}/to/{named.url}/b") == BODY
    assert fetch(f"{named.url}/to//b") == BODY
    assert fetch(f"http://localhost:{named.server_port}/to/{named.url}/b") == BODY
    there = [f"/to/{named.url}/b", "/b"]
    assert named.asked == ["/a", *there, "/to//b", "/b", *there]


OTHER_FORMS = (
    "127.0.0.2",
    "2130706434",
    "0x7f000002",
    "0177.0.0.2",
    "127.2",
    "[::ffff:127.0.0.2]",
    "[::ffff:7f00:2]",
    "evil.example",
    "EVIL.example.",
)


@pytest.mark.parametrize("host", OTHER_FORMS)
def test_an_answer_leads_to_no_other_address_inside(named, other, names, host):
    names["evil.example"] = names["EVIL.example."] = names["evil.example."] = ["127.0.0.2"]
    target = f"http://{host}:{other.server_port}/x"
    with pytest.raises(web.WebRefused, match=r"leads to .*127\.0\.0\.2|7f00:2.*inside"):
        fetch(f"{named.url}/to/{target}")
    assert other.asked == []
    assert fetch(target.replace(host, "127.0.0.2")) == BODY, "named by the user it is fetched"


@pytest.mark.parametrize(
    "host", ["[::1]", "169.254.169.254", "10.0.0.1", "[fe80::1]", "0.0.0.0", "[64:ff9b::a00:1]"]
)
def test_nor_to_those_of_the_network_the_cloud_and_the_provider(named, host):
    with pytest.raises(web.WebRefused, match="inside this machine or its network"):
        fetch(f"{named.url}/to/http://{host}/latest/meta-data")


def test_a_login_is_sent_to_the_host_that_it_is_written_at_and_to_no_other(other):
    logins = []

    class Asking(Handler):
        def do_GET(self):
            logins.append(self.headers.get("Authorization"))
            super().do_GET()

    with serving(Asking) as first, serving(Asking) as second:
        here = f"127.0.0.1:{first.server_port}"
        there = f"http://127.0.0.1:{second.server_port}/b"
        assert fetch(f"http://me:p%40ss@{here}/a") == BODY
        assert fetch(f"http://me:p%40ss@{here}/to/{there}") == BODY
    assert logins == ["Basic bWU6cEBzcw==", "Basic bWU6cEBzcw==", None]


def test_a_name_is_resolved_once_and_what_was_looked_at_is_connected_to(
    named, other, names, monkeypatch
):
    """A name of the internet (here: 127.0.0.1, said to be outside) that changes its mind."""
    inside = web.is_outside
    monkeypatch.setattr(web, "is_outside", lambda ip: ip == "127.0.0.1" or inside(ip))
    names["evil.example"] = ["127.0.0.1", "127.0.0.2"]
    address = f"http://evil.example:{named.server_port}"
    assert fetch(f"{address}/a") == BODY and names["asked"] == ["evil.example"]
    names["evil.example"] = ["127.0.0.1", "127.0.0.2"]
    with pytest.raises(web.WebRefused, match=r"leads to evil.example, which is 127\.0\.0\.2"):
        fetch(f"{address}/to/http://evil.example:{other.server_port}/x")
    assert other.asked == []
    names["both.example"] = ["127.0.0.1"]
    assert fetch(f"{address.replace('evil', 'both')}/to/{named.url}/x") == BODY


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "gopher://127.0.0.1/"]
)
def test_only_web_addresses(named, target):
    with pytest.raises(
        (web.WebRefused, urllib.error.HTTPError), match="which is not http or https|is not allowed"
    ):
        fetch(f"{named.url}/to/{target}")
    with pytest.raises((OSError, ValueError)):
        fetch(target)


def test_a_circle_ends(named):
    class Circle(Handler):
        def do_GET(self):
            self.path = f"/to/http://127.0.0.1:{self.server.server_port}/again"
            super().do_GET()

    with serving(Circle) as server, pytest.raises(urllib.error.HTTPError):
        fetch(f"http://127.0.0.1:{server.server_port}/")
    assert len(server.asked) <= web.MAX_REDIRECTS + 1


class Drip(socketserver.BaseRequestHandler):
    """A byte now and then: each in time, all together for ever."""

    parts = (b"HTTP/1.1 200 OK\r\n", b"X-")

    def handle(self):
        self.request.recv(1000)
        with contextlib.suppress(OSError):
            for part in self.parts:
                self.request.sendall(part)
            while True:
                time.sleep(0.05)
                self.request.sendall(b"x")


class DripBody(Drip):
    parts = (b"HTTP/1.1 200 OK\r\n\r\n",)


class DripCounted(Drip):
    parts = (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n",)


class Silent(Drip):
    def handle(self):
        self.request.recv(1000)
        time.sleep(5)


@pytest.mark.parametrize("handler", [Drip, DripBody, DripCounted, Silent])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_all_together_has_an_end(handler, scheme):
    with serving(handler, kind=socketserver.ThreadingTCPServer) as server:
        url = f"{scheme}://127.0.0.1:{server.server_address[1]}/"
        before = time.monotonic()
        with pytest.raises((web.WebRefused, urllib.error.URLError)) as caught:
            fetch(url, total_s=0.4)
        assert time.monotonic() - before < 2
        if scheme == "http" or handler is Silent:
            assert str(caught.value) == "took longer than 0.4 s"


def test_redirects_count_into_the_time():
    class Slow(Handler):
        def do_GET(self):
            time.sleep(0.2)
            self.path = f"/to/http://127.0.0.1:{self.server.server_port}/{len(self.server.asked)}"
            super().do_GET()

    with serving(Slow) as server, pytest.raises(web.WebRefused, match="took longer than 0.5 s"):
        fetch(f"http://127.0.0.1:{server.server_port}/", total_s=0.5)


def test_no_more_than_said_is_read(named):
    assert fetch(f"{named.url}/", limit_bytes=len(BODY)) == BODY
    with pytest.raises(web.WebRefused, match="^too large$"):
        fetch(f"{named.url}/", limit_bytes=len(BODY) - 1)


def test_an_answer_that_breaks_off_is_not_taken_for_whole():
    class Short(Drip):
        def handle(self):
            self.request.recv(1000)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf")

    with serving(Short, kind=socketserver.ThreadingTCPServer) as server:
        with pytest.raises(OSError, match="ended after 4 of 20 bytes"):
            fetch(f"http://127.0.0.1:{server.server_address[1]}/")


def test_a_proxy_is_asked_for_the_internet_and_never_for_this_machine(named, other, monkeypatch):
    class Proxy(Handler):
        """It knows every host, and gives what its path asks for."""

    with serving(Proxy) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        assert fetch("http://picture.invalid/a") == BODY
        assert proxy.asked == ["http://picture.invalid/a"]
        assert fetch(f"{named.url}/a") == fetch(f"http://localhost:{named.server_port}/b") == BODY
        assert named.asked == ["/a", "/b"] and len(proxy.asked) == 1
        for host in ("127.0.0.2", "2130706434", "169.254.169.254"):
            with pytest.raises(web.WebRefused, match="inside"):
                fetch(f"http://picture.invalid/to/http://{host}:{other.server_port}/x")
        assert other.asked == []


@pytest.mark.parametrize(
    "address, outside",
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("64:ff9b::808:808", True),
        ("127.8.8.8", False),
        ("10.0.0.1", False),
        ("172.31.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("2002:808:808::", False),
        ("4000::1", False),
        ("fe80::1%eth0", False),
        ("fd12::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::808:808", False),
    ],
)
def test_which_addresses_are_outside(address, outside):
    assert web.is_outside(address) is outside


# IANA's registries of special-purpose addresses (October 2025): is a block globally reachable?
# None: the registry says N/A.
SPECIAL = {
    "0.0.0.0/8": False,
    "0.0.0.0/32": False,
    "10.0.0.0/8": False,
    "100.64.0.0/10": False,
    "127.0.0.0/8": False,
    "169.254.0.0/16": False,
    "172.16.0.0/12": False,
    "192.0.0.0/24": False,
    "192.0.0.0/29": False,
    "192.0.0.8/32": False,
    "192.0.0.9/32": True,
    "192.0.0.10/32": True,
    "192.0.0.170/32": False,
    "192.0.0.171/32": False,
    "192.0.2.0/24": False,
    "192.31.196.0/24": True,
    "192.52.193.0/24": True,
    "192.88.99.0/24": None,
    "192.168.0.0/16": False,
    "192.175.48.0/24": True,
    "198.18.0.0/15": False,
    "198.51.100.0/24": False,
    "203.0.113.0/24": False,
    "240.0.0.0/4": False,
    "255.255.255.255/32": False,
    "::1/128": False,
    "::/128": False,
    "::ffff:0:0/96": False,
    "64:ff9b::/96": True,
    "64:ff9b:1::/48": False,
    "100::/64": False,
    "100:0:0:1::/64": False,
    "2001::/23": False,
    "2001::/32": None,
    "2001:1::1/128": True,
    "2001:1::2/128": True,
    "2001:1::3/128": True,
    "2001:2::/48": False,
    "2001:3::/32": True,
    "2001:4:112::/48": True,
    "2001:10::/28": None,
    "2001:20::/28": True,
    "2001:30::/28": True,
    "2001:db8::/32": False,
    "2002::/16": None,
    "2620:4f:8000::/48": True,
    "3fff::/20": False,
    "5f00::/16": False,
    "fc00::/7": False,
    "fe80::/10": False,
}
OF_PROTOCOLS = ("192.0.0.0/24", "2001::/23")  # services of a provider: reachable, and no web server


@pytest.mark.parametrize("block", SPECIAL)
def test_special_addresses_are_inside_unless_they_are_the_internets(block):
    network = ipaddress.ip_network(block)
    services = [ipaddress.ip_network(each) for each in OF_PROTOCOLS]
    is_service = any(network.version == s.version and network.subnet_of(s) for s in services)
    # of those that carry IPv4 the first and the last are 0.0.0.0 and 255.255.255.255
    expected = bool(SPECIAL[block]) and not is_service and block != "64:ff9b::/96"
    for address in (network[0], network[-1]):
        assert web.is_outside(str(address)) is expected, address


@pytest.mark.parametrize(
    "address",
    [
        *(
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
        ),
        *("128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
        *("192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255"),
        *("198.20.0.0", "203.0.112.255", "203.0.114.0", "223.255.255.255"),
        *("2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "2606:4700:4700::1111"),
        *("3ffe::", "3fff:1000::", "64:ff9b::101:101", "2a00:1450:4001:81b::200e"),
    ],
)
def test_their_neighbours_are_outside(address):
    assert web.is_outside(address)


@pytest.mark.parametrize(
    "url, shown",
    [
        ("https://host/a.zip", "https://host/a.zip"),
        ("https://anna:s3cret@host:8/a.zip", "https://host:8/a.zip"),
        ("https://t0ken@host/a.zip#x", "https://host/a.zip#x"),
        ("https://host/a.zip?X-Amz-Signature=s3cret&v", "https://host/a.zip?X-Amz-Signature=...&v"),
        ("http://anna:s3cret@[::/a?key=s3cret", "[::/a"),
    ],
)
def test_an_address_is_shown_without_login_and_keys(url, shown):
    assert web.shown(url) == shown
