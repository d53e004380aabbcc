"""The control place: etcd, API server, controllers, scheduler, DNS, and a proxy: tests reach Services by name."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

from testbed import addresses
from testbed.certificates import Authority, Subject, kubeconfig, token_keys
from testbed.daemons import Daemons
from testbed.place import Place

ETCD = "http://127.0.0.1:2379"
FEATURES = "ResourceHealthStatus=true"
"""The health of each device in the status of the pod that holds it; the kubelets have it on too."""
NODE_GRACE = "20s"
"""How long a node may be silent before its pods are given up; upstream waits 50 s."""
RESOLVING = f"""search default.svc.{addresses.DOMAIN} svc.{addresses.DOMAIN} {addresses.DOMAIN}
nameserver {addresses.CONTROL}
options ndots:5 timeout:2 attempts:2
"""
CONTROLLERS = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
"""Ports where they say that they are well."""
CALLERS = ("kube-controller-manager", "kube-scheduler", "kube-proxy")


class Control(Place):
    """``state``: the cluster's folder; `config` is the administrator's kubeconfig."""

    def __init__(self, state: Path, daemons: Daemons, programs: Path) -> None:
        super().__init__("control", daemons, programs)
        self.state, self.keys = state, state / "keys"
        self.config = state / "admin.kubeconfig"

    def up(self) -> Authority:
        authority = self._certificates()
        self.make()
        self._bridge()
        self._etcd()
        self._api_server()
        self._controllers()
        self._dns()
        return authority

    def proxy(self, node: str) -> None:
        """Reach Services from here too. A proxy waits half a minute for its node: it goes by the name of a ``node``."""
        start_proxy(self, addresses.CONTROL, self.state, node)
        wait_for_proxy(self)

    def kubectl(self, *arguments: object, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.ran(self.programs / "kubectl", f"--kubeconfig={self.config}", *arguments, limit=limit)

    def ready(self) -> bool:
        admin = ("--cert", self.keys / "admin.crt", "--key", self.keys / "admin.key")
        return self.answers(f"{addresses.API}/readyz", "--cacert", self.keys / "ca.crt", *admin)

    def _certificates(self) -> Authority:
        authority, front = Authority(self.keys, "ca"), Authority(self.keys, "front-ca")
        token_keys(self.keys)
        served = (*addresses.API_NAMES, addresses.CONTROL, addresses.API_SERVICE, "127.0.0.1")
        authority.sign("apiserver", Subject("kube-apiserver", names=served))
        front.sign("front", Subject("front-proxy-client"))
        authority.sign("kubelet-client", Subject("kube-apiserver-kubelet-client", "system:masters"))
        authority.sign("admin", Subject("admin", "system:masters"))
        authority.sign("coredns", Subject("coredns", "system:masters"))
        for caller in CALLERS:
            authority.sign(caller, Subject(f"system:{caller}"))
        for user in ("admin", "coredns", *CALLERS):
            kubeconfig(self.state / f"{user}.kubeconfig", authority, user, addresses.API)
        return authority

    def _bridge(self) -> None:
        self.run("ip", "link", "add", "br0", "type", "bridge")
        self.run("ip", "addr", "add", f"{addresses.CONTROL}/24", "dev", "br0")
        self.run("ip", "link", "set", "br0", "up")
        self.run("ip", "route", "add", addresses.SERVICES, "dev", "br0")  # any route will do: the proxy changes it
        resolving = self.state / "resolv.conf"
        resolving.write_text(RESOLVING)
        self.run("mount", "--bind", resolving, Path("/etc/resolv.conf").resolve())

    def _etcd(self) -> None:
        peer = ETCD.replace("2379", "2380")
        self.start(
            "etcd", "etcd", "--name=only", f"--data-dir={self.state}/etcd", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=only={peer}",
        )  # fmt: skip
        self.daemons.wait("etcd", lambda: self.answers(f"{ETCD}/health"))

    def _api_server(self) -> None:
        keys = self.keys
        self.start(
            "kube-apiserver", "kube-apiserver", f"--etcd-servers={ETCD}", "--secure-port=6443", "--v=1",
            f"--bind-address={addresses.CONTROL}", f"--advertise-address={addresses.CONTROL}",
            f"--service-cluster-ip-range={addresses.SERVICES}", "--allow-privileged=true", "--profiling=false",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            f"--feature-gates={FEATURES}",
            f"--tls-cert-file={keys}/apiserver.crt", f"--tls-private-key-file={keys}/apiserver.key",
            f"--client-ca-file={keys}/ca.crt",
            f"--service-account-issuer=https://kubernetes.default.svc.{addresses.DOMAIN}",
            f"--service-account-key-file={keys}/sa.pub", f"--service-account-signing-key-file={keys}/sa.key",
            f"--kubelet-client-certificate={keys}/kubelet-client.crt",
            f"--kubelet-client-key={keys}/kubelet-client.key",
            f"--kubelet-certificate-authority={keys}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={keys}/front-ca.crt", "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={keys}/front.crt", f"--proxy-client-key-file={keys}/front.key",
        )  # fmt: skip
        self.daemons.wait("kube-apiserver", self.ready)

    def _controllers(self) -> None:
        keys = self.keys
        more: dict[str, tuple[str, ...]] = {
            "kube-controller-manager": (
                "--use-service-account-credentials=true", f"--service-account-private-key-file={keys}/sa.key",
                f"--root-ca-file={keys}/ca.crt", f"--cluster-signing-cert-file={keys}/ca.crt",
                f"--cluster-signing-key-file={keys}/ca.key", "--node-monitor-period=2s",
                f"--node-monitor-grace-period={NODE_GRACE}",
            ),
            "kube-scheduler": (),
        }  # fmt: skip
        for name, options in more.items():  # both at once: neither needs the other to start
            user = f"{self.state}/{name}.kubeconfig"
            kubeconfigs = (f"--{kind}kubeconfig={user}" for kind in ("", "authentication-", "authorization-"))
            self.start(name, name, *kubeconfigs, "--bind-address=127.0.0.1", "--leader-elect=false", "--v=1", *options)
        self.wait_for_controllers()

    def wait_for_controllers(self) -> None:
        for name, port in CONTROLLERS.items():
            self.daemons.wait(name, partial(self.answers, f"https://127.0.0.1:{port}/healthz", "-k"))

    def _dns(self) -> None:
        corefile = self.state / "Corefile"
        corefile.write_text(f""".:53 {{
    bind {addresses.CONTROL}
    errors
    ready 127.0.0.1:8181
    cache 1
    kubernetes {addresses.DOMAIN} in-addr.arpa {{
        kubeconfig {self.state}/coredns.kubeconfig
        pods insecure
        ttl 1
    }}
}}
""")
        self.start("coredns", "coredns", "-conf", corefile)
        self.daemons.wait("coredns", lambda: self.answers("http://127.0.0.1:8181/ready"))


def start_proxy(place: Place, address: str, state: Path, node: str) -> None:
    """kube-proxy of one place, by iptables; ``node``: on whose behalf."""
    config = state / place.name / "kube-proxy.json"
    config.parent.mkdir(exist_ok=True)
    unlimited = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "iptables",
                "clientConnection": {"kubeconfig": f"{state}/kube-proxy.kubeconfig"},
                "clusterCIDR": addresses.PODS,
                "hostnameOverride": node,
                "bindAddress": address,
                "iptables": {"minSyncPeriod": "100ms"},
                "conntrack": unlimited,  # they are the whole machine's and not ours to set
            }
        )
    )
    place.start(f"{place.name}/kube-proxy", "kube-proxy", f"--config={config}", "--v=1")


def wait_for_proxy(place: Place) -> None:
    place.daemons.wait(f"{place.name}/kube-proxy", lambda: place.answers("http://127.0.0.1:10256/healthz"))
