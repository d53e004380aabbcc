"""A device plugin with devices that are only names, and a file that says which of them are ill.

A program by itself, run in a node's namespaces: ``python device_plugin.py --count 4 --ill FILE``. The kubelet sees a
real plugin; a container gets NVIDIA_VISIBLE_DEVICES as it does from NVIDIA's, and no driver.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parent))
messages, services = grpc.protos_and_services("device_plugin.proto")

FOLDER = Path("/var/lib/kubelet/device-plugins")
KUBELET = FOLDER / "kubelet.sock"
LOOKING = 0.2
"""Seconds between looks at the file of ill devices and at the plugin's own socket."""


class Plugin(services.DevicePluginServicer):  # type: ignore[name-defined, misc]
    """Devices by name; `changed` is set anew at each change of health."""

    def __init__(self, names: list[str], ill: Path) -> None:
        self.names, self.file = names, ill
        self.ill = self._read()
        self.changed = asyncio.Condition()

    async def look(self) -> None:
        """Tell the kubelet if the file says something else than before."""
        if (now := self._read()) != self.ill:
            async with self.changed:
                self.ill = now
                self.changed.notify_all()
            print(f"ill: {' '.join(sorted(now)) or 'none'}", flush=True)

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:
        return messages.DevicePluginOptions()

    async def ListAndWatch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            said = self.ill
            health = {name: "Unhealthy" if name in said else "Healthy" for name in self.names}
            yield messages.ListAndWatchResponse(devices=[messages.Device(ID=n, health=h) for n, h in health.items()])
            async with self.changed:
                while self.ill == said:
                    await self.changed.wait()

    async def Allocate(self, request: Any, context: Any) -> Any:
        answers = [
            messages.ContainerAllocateResponse(envs={"NVIDIA_VISIBLE_DEVICES": ",".join(asked.devices_ids)})
            for asked in request.container_requests
        ]
        return messages.AllocateResponse(container_responses=answers)

    def _read(self) -> frozenset[str]:
        return frozenset(self.file.read_text().split()) if self.file.exists() else frozenset()


async def serve(plugin: Plugin, resource: str) -> tuple[grpc.aio.Server, Path]:
    """Listen, and tell the kubelet where. Raises AioRpcError, and then listens no more."""
    socket = FOLDER / f"{resource.replace('/', '-')}.sock"
    socket.unlink(missing_ok=True)
    server = grpc.aio.server()
    services.add_DevicePluginServicer_to_server(plugin, server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix://{KUBELET}") as channel:
            request = messages.RegisterRequest(version="v1beta1", endpoint=socket.name, resource_name=resource)
            await services.RegistrationStub(channel).Register(request, timeout=15, wait_for_ready=True)
    except BaseException:
        await server.stop(0)
        raise
    return server, socket


async def run(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    plugin = Plugin([f"{options.prefix}-{index}" for index in range(options.count)], options.ill)
    while not stopped.is_set():
        if not KUBELET.exists():  # a kubelet that starts empties the folder, our socket with it
            await asyncio.sleep(LOOKING)
            continue
        try:
            server, socket = await serve(plugin, options.resource)
        except grpc.aio.AioRpcError as error:
            print(f"no registration: {error.details()}", flush=True)
            await asyncio.sleep(LOOKING)
            continue
        print(f"registered {options.count} x {options.resource}", flush=True)
        while not stopped.is_set() and socket.exists():
            await plugin.look()
            await asyncio.sleep(LOOKING)
        await server.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resource", default="nvidia.com/gpu")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--prefix", default="GPU-fake")
    parser.add_argument("--ill", type=Path, required=True, help="a file of device names; it need not exist")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
