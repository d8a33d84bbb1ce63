"""Prefect's own server on loopback, as this project starts it: asked by its own name only, and by
no other site's pages.

A page in the user's browser can reach a server on loopback: by a name of its own that it lets point
there (DNS rebinding, the request then has a foreign `Host`), by requests that need no permission,
and by websockets, which no browser holds to the page's origin (both have a foreign `Origin`).
Prefect's login stops what needs one, and Prefect has no check of either header; MLflow's server has
both (`MLFLOW_SERVER_ALLOWED_HOSTS`).

    python -m flows.prefect_server PORT
"""

from __future__ import annotations

import os
import sys
import urllib.parse
from collections.abc import Sequence

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.processes import LOOPBACK

NAMES = (LOOPBACK, "localhost", "[::1]")
ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"


def allowed_hosts() -> list[str]:
    """The names of this server: loopback's, and those of the addresses whose pages the user allows
    (a proxy before it); all where he allows all pages.
    """
    given = [each.strip() for each in os.environ.get(ORIGINS, "").split(",")]
    if "*" in given:
        return ["*"]
    hosts = (urllib.parse.urlsplit(each).hostname for each in given)
    return list(dict.fromkeys([*NAMES, *(host for host in hosts if host)]))


class OwnPages:
    """Refuse requests and websockets that a page of another site makes: those whose `Origin` is
    none of `hosts`. Programs send no Origin.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]):
        self.app, self.hosts = app, {host.strip("[]").lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"} and not self._is_own(Headers(scope=scope)):
            refusal = PlainTextResponse(
                f"A page of another address asks. Allow it: {ORIGINS}", status_code=403
            )
            await refusal(scope, receive, send)  # starlette sends it before a socket is opened, too
            return
        await self.app(scope, receive, send)

    def _is_own(self, headers: Headers) -> bool:
        if "*" in self.hosts:
            return True
        origins = headers.getlist("origin")
        try:
            return all(urllib.parse.urlsplit(each).hostname in self.hosts for each in origins)
        except ValueError:
            return False


def guarded(app: ASGIApp, hosts: Sequence[str]) -> ASGIApp:
    """`app` for requests to one of `hosts` and from their pages; others get 400 and 403."""
    return TrustedHostMiddleware(OwnPages(app, hosts), allowed_hosts=hosts, www_redirect=False)


def main(argv: Sequence[str]) -> None:
    """Serve until the signal to end, as `prefect server start` does on `argv[0]`."""
    server = get_current_settings().server
    uvicorn.run(
        guarded(create_app(final=True), allowed_hosts()),
        host=LOOPBACK,
        port=int(argv[0]),
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
