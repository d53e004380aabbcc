"""The operator's end of Fleet.Attach for tests: keeps every report, sends what a test wants sent."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from forebay_wire.v1 import fleet_pb2, fleet_pb2_grpc

SECONDS = 20.0
"""A deadline of any one thing; a failing test's time, never a passing one's."""

Report = fleet_pb2.WorkerReport


class Fleet(fleet_pb2_grpc.FleetServicer):
    """Listens at ``address`` until ``stop``."""

    def __init__(self, address: str) -> None:
        self.reports: list[Report] = []
        self.inspections: dict[str, fleet_pb2.Inspection] = {}
        self._news = threading.Condition()
        self._links: dict[str, queue.Queue[fleet_pb2.Command | None]] = {}
        self._server = grpc.server(ThreadPoolExecutor(16))
        fleet_pb2_grpc.add_FleetServicer_to_server(self, self._server)
        self._server.add_insecure_port(address)
        self._server.start()

    def stop(self) -> None:
        for link in self._links.values():
            link.put(None)
        self._server.stop(grace=None).wait()

    def Attach(self, requests: Iterator[Report], context: Any) -> Iterator[fleet_pb2.Command]:
        commands: queue.Queue[fleet_pb2.Command | None] = queue.Queue()
        context.add_callback(lambda: commands.put(None))
        threading.Thread(target=self._listen, args=(requests, commands), daemon=True).start()
        yield from iter(commands.get, None)

    def send(self, worker: str, *, term: int = 1, **command: Any) -> None:
        self.wait(lambda: worker in self._links)
        self._links[worker].put(fleet_pb2.Command(term=term, **command))

    def latest(self, worker: str) -> Report:
        """The last report of ``worker``. Raises LookupError when there is none."""
        with self._news:
            return next(report for report in reversed(self.reports) if report.name == worker)

    def wait(self, condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """What ``condition`` gives as soon as it is true; it is asked after every report."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                try:
                    if found := condition():
                        return found
                except StopIteration:
                    pass
                left = deadline - time.monotonic()
                assert left > 0, f"not within {seconds} s; last reports: {self.reports[-2:]}"
                self._news.wait(min(left, 0.2))

    def wait_for(self, worker: str, condition: Callable[[Report], Any], seconds: float = SECONDS) -> Report:
        """The first report of ``worker`` from now on, or its last one, that ``condition`` is true of."""

        def latest() -> Report | None:
            report = next((report for report in reversed(self.reports) if report.name == worker), None)
            return report if report and condition(report) else None

        return self.wait(latest, seconds)

    def _listen(self, requests: Iterator[Report], commands: queue.Queue[fleet_pb2.Command | None]) -> None:
        try:
            for report in requests:
                with self._news:
                    self.reports.append(report)
                    self._links[report.name] = commands
                    self.inspections |= {answer.id: answer for answer in report.inspections}
                    self._news.notify_all()
        except grpc.RpcError:
            pass  # the worker is gone
        finally:
            commands.put(None)
