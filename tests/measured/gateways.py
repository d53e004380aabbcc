"""What Prometheus scrapes in place of real gateways."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterable

from prometheus_process import LIMIT


class Gateways:
    """Tiny exporters with a gateway's metrics, each of them on a port of its own; all say the same."""

    def __init__(self, count: int) -> None:
        self.requests: dict[str, float] = {}
        self.tokens: dict[str, float] = {}
        gateways = self

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = gateways.page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) for _ in range(count)]
        self._threads = [threading.Thread(target=server.serve_forever) for server in self._servers]
        for thread in self._threads:
            thread.start()

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(server.server_port for server in self._servers)

    def page(self) -> str:
        lines = [f"forebay_gateway_time_seconds {time.time()}"]
        lines += self._lines("forebay_inflight", self.requests)
        lines += self._lines("forebay_queue_depth", dict.fromkeys(self.requests, 0.0))
        lines += self._lines("forebay_function_tokens_total", self.tokens)
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join(LIMIT)

    def _lines(self, name: str, values: dict[str, float]) -> Iterable[str]:
        return [f'{name}{{function="default/{function}"}} {value}' for function, value in dict(values).items()]
