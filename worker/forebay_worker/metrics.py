"""What a worker is now, as gauges read from the parts that know; counters live with what moves them.

Five of them carry vLLM's names and labels, because inference gateways and common dashboards look for those.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from forebay_worker import process
from forebay_worker.device import Device
from forebay_worker.formation import PipelineStatus
from forebay_worker.holdings import Holdings
from forebay_worker.load.stream import Loader
from forebay_worker.stage import Executor


class WorkerCollector(Collector):
    """Read at each scrape, on the metrics thread: from immutable snapshots only."""

    def __init__(self, device: Device, loader: Loader, executor: Executor, holdings: Holdings) -> None:
        self._device = device
        self._loader = loader
        self._executor = executor
        self._holdings = holdings

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not read what is not there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        pipelines = self._executor.pipelines()
        yield from self._loading()
        yield from self._memory()
        yield from _serving(pipelines)
        yield from _like_vllm([pipeline for pipeline in pipelines if pipeline.head])

    def _loading(self) -> Iterator[Metric]:
        read = CounterMetricFamily("forebay_link_bytes", "Bytes read over the link", labels=["kind"])
        read.add_metric(["unit"], self._loader.bytes_read)
        read.add_metric(["row"], self._loader.row_bytes_read)
        yield read
        units = GaugeMetricFamily("forebay_units", "Units by phase", labels=["backbone", "phase"])
        for backbone in self._holdings.seen():
            phases = Counter(load.phase.value for load in self._loader.states(backbone))
            for phase, count in phases.items():
                units.add_metric([backbone, phase], count)
        yield units
        yield GaugeMetricFamily("forebay_link_bytes_per_second", "Emulated or measured rate", value=self._loader.rate)

    def _memory(self) -> Iterator[Metric]:
        device = GaugeMetricFamily("forebay_device_memory_bytes", "The device's budget", labels=["state"])
        device.add_metric(["used"], self._device.memory.used)
        device.add_metric(["free"], self._device.memory.free)
        yield device
        resident, peak = process.memory()
        whole = GaugeMetricFamily("forebay_process_memory_bytes", "Resident set of the process", labels=["state"])
        whole.add_metric(["now"], resident)
        whole.add_metric(["peak"], peak)
        yield whole


def _serving(pipelines: tuple[PipelineStatus, ...]) -> Iterator[Metric]:
    stages = GaugeMetricFamily("forebay_pipelines", "Pipelines with a stage here", labels=["backbone", "phase", "role"])
    found = Counter((each.backbone, each.phase.value, "head" if each.head else "stage") for each in pipelines)
    for labels, count in found.items():
        stages.add_metric(labels, count)
    yield stages
    reserved = GaugeMetricFamily("forebay_kv_reserved_bytes", "Key-value cache reserved here", labels=["backbone"])
    sums: Counter[str] = Counter()
    for each in pipelines:
        sums[each.backbone] += each.kv_bytes
    for backbone, total in sums.items():
        reserved.add_metric([backbone], total)
    yield reserved


def _like_vllm(heads: list[PipelineStatus]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests waiting at this head", labels=["model_name"])
    running = GaugeMetricFamily("vllm:num_requests_running", "Requests running at this head", labels=["model_name"])
    usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of the KV blocks in use", labels=["model_name"])
    cache = GaugeMetricFamily(
        "vllm:cache_config_info", "Layout of the KV cache", labels=["model_name", "block_size", "num_gpu_blocks"]
    )
    for backbone in sorted({head.backbone for head in heads}):
        mine = [head for head in heads if head.backbone == backbone]
        blocks, free = sum(head.kv_blocks for head in mine), sum(head.kv_blocks_free for head in mine)
        waiting.add_metric([backbone], sum(head.waiting for head in mine))
        running.add_metric([backbone], sum(head.running for head in mine))
        usage.add_metric([backbone], (blocks - free) / blocks if blocks else 0.0)
        cache.add_metric([backbone, str(mine[0].block_tokens), str(blocks)], 1)
    adapters = GaugeMetricFamily(
        "vllm:lora_requests_info",
        "Adapters; none are served",
        labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
    )
    adapters.add_metric(["0", "", ""], time.time())
    yield from (waiting, running, usage, cache, adapters)
