"""The real Prometheus, as a process whose storage, configuration and life a test has in hand."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from local.system import free_port

PROGRAM = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="no prometheus on PATH: apt install prometheus")

LIMIT = 60.0
"""Seconds for what comes about in its own time."""

SCRAPE = "300ms"


class PrometheusProcess:
    """``web``: its web.config file, for credentials and TLS; ``every``: how often it scrapes and evaluates, and how
    long a scrape may take; ``rules``: the files that it evaluates; ``port``: where it listens, 0 for a free one."""

    def __init__(
        self,
        folder: Path,
        web: Mapping[str, object] | None = None,
        every: str = SCRAPE,
        rules: Sequence[Path] = (),
        port: int = 0,
    ) -> None:
        self.port = port or free_port()
        self._folder = folder
        self._secure = "tls_server_config" in (web or {})
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.scrape()
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "forebay", "file_sd_configs": [{"files": [str(folder / "targets.json")]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "web.yml").write_text(yaml.safe_dump(dict(web or {})))

    @property
    def url(self) -> str:
        return f"{'https' if self._secure else 'http'}://127.0.0.1:{self.port}"

    def scrape(self, *ports: int) -> None:
        """These alone from now on."""
        self.scrape_jobs({"forebay": [f"127.0.0.1:{port}" for port in ports]})

    def scrape_jobs(self, jobs: Mapping[str, Sequence[str]]) -> None:
        """These addresses alone from now on, each under the name of its job."""
        draft = self._folder / "targets.draft"
        draft.write_text(json.dumps([{"targets": [*each], "labels": {"job": job}} for job, each in jobs.items()]))
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
