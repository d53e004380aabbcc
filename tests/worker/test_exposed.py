"""Names with a colon reach a scraper that prefers OpenMetrics, as Prometheus does."""

from __future__ import annotations

import urllib.request

from prometheus_client import REGISTRY, Gauge

from forebay_worker.exposed import expose

PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def test_names_stay_as_they_are() -> None:
    gauge = Gauge("vllm:tried_here", "A name with a colon.", ["model_name"])
    try:
        gauge.labels("m").set(3)
        request = urllib.request.Request(
            f"http://127.0.0.1:{expose(0, '127.0.0.1')}/metrics", headers={"Accept": PROMETHEUS}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers.get_content_type() == "text/plain"
            assert 'vllm:tried_here{model_name="m"} 3.0' in answer.read().decode().splitlines()
    finally:
        REGISTRY.unregister(gauge)
