"""The real Prometheus, as a process whose storage, configuration and life a test has in hand."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

PROGRAM = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="no prometheus on PATH: apt install prometheus")

LIMIT = 60.0
"""Seconds for what comes about in its own time."""

SCRAPE = "300ms"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class PrometheusProcess:
    """``web``: its web.config file, for credentials and TLS; ``every``: how often it scrapes, and how long that may
    take."""

    def __init__(self, folder: Path, web: dict[str, object] | None = None, every: str = SCRAPE) -> None:
        self.port = free_port()
        self._folder = folder
        self._secure = "tls_server_config" in (web or {})
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.scrape()
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every},
            "scrape_configs": [{"job_name": "forebay", "file_sd_configs": [{"files": [str(folder / "targets.json")]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "web.yml").write_text(yaml.safe_dump(web or {}))

    @property
    def url(self) -> str:
        return f"{'https' if self._secure else 'http'}://127.0.0.1:{self.port}"

    def scrape(self, *ports: int) -> None:
        """These alone from now on."""
        draft = self._folder / "targets.draft"
        draft.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"]} for port in ports]))
        draft.replace(self._folder / "targets.json")

    def start(self) -> None:
        """Returns once it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(PROGRAM),
                    f"--config.file={self._folder}/prometheus.yml",
                    f"--web.config.file={self._folder}/web.yml",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    f"--storage.tsdb.path={self._folder}/data",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + LIMIT
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            context = ssl._create_unverified_context() if self._secure else None
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=LIMIT, context=context):
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 401
        except OSError:
            return False

    def kill(self) -> None:
        """As a crash does: nothing is said, nothing is written any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(LIMIT)
            self._process = None

    def wipe(self) -> None:
        """What it has stored, while it does not run."""
        shutil.rmtree(self._folder / "data")


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
