"""A proxy in front of a real server that makes it slow, silent or broken; and can stop doing so."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SlowTracker:
    """Forwards to `port`. delay_s: before each answer. hang: no answer at all. lose_answers: the
    server does its work and nobody hears of it, so many times.
    """

    def __init__(self, port):
        self.port, self.delay_s, self.hang, self.lose_answers = port, 0.0, False, 0
        self.requests = 0
        self._let_go = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self):
        self._let_go.set()
        self._http.shutdown()
        self._http.server_close()

    def _handler(proxy):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                proxy.requests += 1
                length = int(self.headers.get("Content-Length") or 0)
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = self.read_chunks()
                else:
                    body = self.rfile.read(length) if length else None
                if proxy.hang:
                    proxy._let_go.wait(120)
                    self.close_connection = True
                    return
                time.sleep(proxy.delay_s)
                headers = {
                    k: v
                    for k, v in self.headers.items()
                    if k.lower() not in {"transfer-encoding", "content-length"}
                }
                upstream = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
                if proxy.lose_answers:
                    proxy.lose_answers -= 1
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {
                        "transfer-encoding",
                        "content-length",
                        "connection",
                        "content-encoding",
                    }:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def read_chunks(self):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def log_message(self, *args):
                pass

        return Handler
