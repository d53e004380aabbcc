"""A node: containerd, kubelet, proxy and fake GPUs in namespaces of their own, wired to the control place's bridge."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from testbed import addresses, cgroups, gpus, needs
from testbed.certificates import Authority, Subject, kubeconfig
from testbed.control import Control, start_proxy
from testbed.images import PAUSE
from testbed.place import Place
from testbed.shell import Failed

FIXED = Path("/var/lib/kubelet")
"""Where a kubelet has its device plugins, whatever it is told: each node mounts its own folder there."""
CALM = 5.0
"""Seconds that pods' processes have to end when a node is taken down."""


class Node(Place):
    """Node ``index``, counted from 1, with ``devices`` fake GPUs. Its pods compute on ``cores`` only."""

    def __init__(self, control: Control, index: int, devices: int, cores: Sequence[int]) -> None:
        super().__init__(f"node{index}", control.daemons, control.programs)
        self.control, self.index, self.devices, self.cores = control, index, devices, cores
        self.address = addresses.node(index)
        self.cable = f"veth{index}"
        self.state = control.state / self.name
        self.socket = self.state / "containerd.sock"
        self.cgroup = f"{control.state.name}-{self.name}"

    def up(self, authority: Authority, archives: Sequence[Path]) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        self.make()
        self._network()
        cgroups.make(self.cgroup)
        self._containerd(archives)
        self._kubelet(authority)
        start_proxy(self, self.address, self.control.state, self.name)
        if self.devices:
            gpus.start(self, self.devices)

    def wait(self) -> None:
        """Return when the node is Ready and offers its devices."""
        wanted = ("get", "node", self.name, "-o", "json")

        def ready() -> bool:
            got = self.control.kubectl(*wanted)
            if got.returncode:
                return False
            status = json.loads(got.stdout)["status"]
            conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
            offered = int(status.get("allocatable", {}).get(gpus.RESOURCE, "0"))
            return conditions.get("Ready") == "True" and offered == self.devices

        self.daemons.wait(f"{self.name}/kubelet", ready)
        cgroups.confine(self.cgroup, self.cores)

    def plug(self, *, connected: bool) -> None:
        """Pull the node's cable, or put it back."""
        self.control.run("ip", "link", "set", self.cable, "up" if connected else "down")

    def down(self) -> None:
        if self.pid is not None:
            for daemon in ("gpus", "kube-proxy", "kubelet"):
                self.daemons.stop(f"{self.name}/{daemon}")
            self._end_pods()
            self.daemons.stop(f"{self.name}/containerd")
            self.unmake()
        for daemon in ("gpus", "kube-proxy", "kubelet", "containerd"):  # where the holder was lost before them
            self.daemons.stop(f"{self.name}/{daemon}")
        self._end_shims()
        cgroups.remove(self.cgroup)

    def _network(self) -> None:
        control, pods = self.control, addresses.pods_of(self.index)
        control.run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.pid)
        control.run("ip", "link", "set", self.cable, "master", "br0", "up")
        control.run("ip", "route", "add", pods, "via", self.address)
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", addresses.CONTROL)
        plugins = self.state / "cni"
        plugins.mkdir(exist_ok=True)
        allocation = {
            "type": "host-local",
            "dataDir": f"{self.state}/addresses",
            "ranges": [[{"subnet": pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": allocation}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
        chain = {"cniVersion": "0.4.0", "name": "testbed", "plugins": [bridge, ports]}
        (plugins / "10-testbed.conflist").write_text(json.dumps(chain))

    def _containerd(self, archives: Sequence[Path]) -> None:
        config = self.state / "containerd.toml"
        config.write_text(_containerd_config(self, second=" v2." in self.ran("containerd", "--version").stdout))
        self.start(f"{self.name}/containerd", "containerd", "--config", config)
        self.daemons.wait(f"{self.name}/containerd", lambda: not self.ctr("version"))
        for path in archives:
            if said := self.ctr("images", "import", path):
                raise Failed(f"{self.name}: import of {path}: {said}")

    def ctr(self, *arguments: object) -> str:
        """Talk to this node's containerd; empty if that went well, else what was said."""
        done = self.ran("ctr", "-a", self.socket, "-n", "k8s.io", *arguments)
        return (done.stderr.strip() or f"exit {done.returncode}") if done.returncode else ""

    def _kubelet(self, authority: Authority) -> None:
        folder, keys = self.state / "fixed", self.control.keys
        (folder / "device-plugins").mkdir(parents=True, exist_ok=True)
        FIXED.mkdir(exist_ok=True)
        self.run("mount", "--bind", folder, FIXED)
        authority.sign(self.name, Subject(f"system:node:{self.name}", "system:nodes"))
        served = Subject(f"system:node:{self.name}", "system:nodes", names=(self.name, self.address))
        authority.sign(f"{self.name}-server", served)
        config = self.state / "kubelet.json"
        config.write_text(json.dumps(_kubelet_config(self, keys), indent=1))
        labels = [f"topology.kubernetes.io/zone=zone{self.index}", *gpus.labels(self.devices)]
        self.start(
            f"{self.name}/kubelet", "kubelet", f"--config={config}", f"--root-dir={self.state}/kubelet", "--v=2",
            f"--kubeconfig={kubeconfig(self.state / 'kubeconfig', authority, self.name, addresses.API)}",
            f"--hostname-override={self.name}", f"--node-ip={self.address}", f"--cert-dir={keys}",
            f"--node-labels={','.join(labels)}",
        )  # fmt: skip

    def _end_pods(self) -> None:
        listed = self.ran("ctr", "-a", self.socket, "-n", "k8s.io", "tasks", "ls", "-q").stdout.split()
        if listed:
            self.ran("ctr", "-a", self.socket, "-n", "k8s.io", "tasks", "rm", "-f", *listed)

    def _end_shims(self) -> None:
        """Shims outlive containerd; ours name our socket. What is left in our groups ends too."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "containerd-shim" in words[0] and str(self.socket) in words:
                    os.kill(int(process.name), signal.SIGKILL)
        end = time.monotonic() + CALM
        while (left := cgroups.processes(self.cgroup)) and time.monotonic() < end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _kubelet_config(node: Node, keys: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "featureGates": {"ResourceHealthStatus": True},
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "address": node.address,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{keys}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "rotateCertificates": False,
        "tlsCertFile": f"{keys}/{node.name}-server.crt",
        "tlsPrivateKeyFile": f"{keys}/{node.name}-server.key",
        "clusterDomain": addresses.DOMAIN,
        "clusterDNS": [addresses.CONTROL],
        "resolvConf": "",
        "podLogsDir": f"{node.state}/pod-logs",
        "maxPods": 100,
        "serializeImagePulls": False,
        # Images came from archives: what is collected cannot be pulled again. The disk is shared with all else here.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusUpdateFrequency": "4s",
    }


def _containerd_config(node: Node, *, second: bool) -> str:
    """``second``: containerd 2, which calls its parts by other names."""
    runtime = "io.containerd.cri.v1.runtime" if second else "io.containerd.grpc.v1.cri"
    pinned = f'[plugins."io.containerd.cri.v1.images".pinned_images]\nsandbox = "{PAUSE}"' if second else ""
    return f"""version = {3 if second else 2}
root = "{node.state}/containerd"
state = "{node.state}/containerd-state"
[grpc]
address = "{node.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{node.state}/opt"
{pinned}
[plugins."{runtime}"]
{"" if second else f'sandbox_image = "{PAUSE}"'}
disable_apparmor = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."{runtime}".cni]
{f'bin_dirs = ["{needs.PLUGINS}"]' if second else f'bin_dir = "{needs.PLUGINS}"'}
conf_dir = "{node.state}/cni"
[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{runtime}".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
