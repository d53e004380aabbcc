"""The Secrets with certificates, for mutual TLS between the components: the leader makes and renews them.

    <release>-ca          tls.crt, tls.key: the authority that signs; ca.crt: all that are trusted
    <release>-<role>-tls  tls.crt, tls.key: what the role shows; ca.crt: whom it trusts

Two leaders never mix keys: a certificate and its key are in one Secret, written as one, and only over the version that
was read. The roles' Secrets are read before the authority's, so that none is judged by an authority older than its own.
A Secret that is there and holds nothing of use is filled. They belong to the ConfigMap ``<release>-owner``, where there
is one, and go with it. What is decided, ``renewal`` has.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter

from forebay_channel import Role
from forebay_operator.cluster.api import Api, Conflict, NotFound
from forebay_operator.cluster.authority import Pair, Paper, fits, issue, make_authority, read, read_pair
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.renewal import Held, Renewal, RoleHeld, decide

log = structlog.get_logger(__name__)

CERTIFICATE, KEY, BUNDLE = "tls.crt", "tls.key", "ca.crt"
ROUNDS = 5
"""Of one call: a new authority, the roles' certificates, and some that another leader spoils."""
LATEST = "..data"
HEAD = {"apiVersion": "v1", "kind": "Secret"}

made_total = Counter("forebay_certificates_made_total", "Certificates made.", ["role"])

Json = dict[str, Any]


def authority_secret(release: str) -> str:
    return f"{release}-ca"


def role_secret(release: str, role: Role) -> str:
    return f"{release}-{role}-tls"


async def keep(api: Api, namespace: str, release: str, now: float) -> float:
    """Make and renew what is missing or due; returns when to look again, unix seconds.

    Raises ApiError; Conflict when others wrote the same Secrets again and again.
    """
    conflict: Conflict | None = None
    for _ in range(ROUNDS):
        secrets = _Secrets(api, namespace, release)
        try:
            renewal = decide(await secrets.read(), now)
            if not await secrets.carry_out(renewal, now):
                return renewal.look
        except Conflict as error:  # somebody was faster: look what there is now
            conflict = error
    if conflict is not None:
        raise conflict
    return now


async def fetch(api: Api, namespace: str, release: str, folder: Path) -> None:
    """Write what the operator shows and trusts into ``folder``, laid out as kubelets lay out a Secret.

    The three files are links into ``..data``, itself a link that is replaced as one: who reads one file after another
    while that happens can see a certificate with the next one's key, as with any mounted Secret, and sees a pair that
    fits when it reads again (a change shows in ``stat``). Who resolves ``..data`` first never sees a mixture.

    Raises ApiError, NotFound also while the Secret is empty; OSError.
    """
    name = role_secret(release, Role.OPERATOR)
    data = _data(await api.get(KINDS.SECRET, namespace, name))
    files = {each: data.get(each, b"") for each in (CERTIFICATE, KEY, BUNDLE)}
    # Whoever made them: of any kind of key, not only ours.
    if not fits(Pair(files[CERTIFICATE], files[KEY])) or not files[BUNDLE]:
        raise NotFound(404, "NotFound", f'secret "{name}" has no {CERTIFICATE} with its {KEY} and {BUNDLE}')
    await asyncio.to_thread(_write, folder, files)


class _Secrets:
    """All of them, as read once; what is written goes over exactly those."""

    def __init__(self, api: Api, namespace: str, release: str) -> None:
        self._api = api
        self._namespace = namespace
        self._release = release
        self._roles: dict[Role, Json | None] = {}
        self._authority: Json | None = None

    async def read(self) -> Held:
        for role in Role:
            self._roles[role] = await self._get(role_secret(self._release, role))
        self._authority = await self._get(authority_secret(self._release))
        data = _data(self._authority)
        return Held(
            authority=read_pair(_pair(data)),
            trusted=read(data.get(BUNDLE, b"")),
            roles={self._name(role): _role_held(secret) for role, secret in self._roles.items()},
        )

    async def carry_out(self, renewal: Renewal, now: float) -> bool:
        """Whether anything changed."""
        if renewal.new_authority:
            pair = await asyncio.to_thread(make_authority, self._release, now)
            await self._put_authority(pair, (*read(pair.certificate), *renewal.trusted))
            self._made("authority")
            return True
        authority, bundle = _data(self._authority), _bundle(renewal.trusted)
        changed = authority.get(BUNDLE) != bundle
        if changed:
            await self._put_authority(_pair(authority), renewal.trusted)
        for role, secret in self._roles.items():
            name = self._name(role)
            if name in renewal.make:
                pair = await asyncio.to_thread(issue, _pair(authority), role, self._release, now)
                await self._put(role_secret(self._release, role), secret, pair, bundle)
                self._made(role)
                changed = True
            elif name in renewal.tell:
                await self._put(role_secret(self._release, role), secret, _pair(_data(secret)), bundle)
                changed = True
        return changed

    def _made(self, role: str) -> None:
        made_total.labels(role).inc()
        log.info("certificate made", phase="certificates", role=role, release=self._release)

    async def _get(self, name: str) -> Json | None:
        try:
            return await self._api.get(KINDS.SECRET, self._namespace, name)
        except NotFound:
            return None

    async def _put_authority(self, pair: Pair, trusted: Iterable[Paper]) -> None:
        await self._put(authority_secret(self._release), self._authority, pair, _bundle(trusted))

    async def _put(self, name: str, before: Json | None, pair: Pair, bundle: bytes) -> None:
        data = {CERTIFICATE: pair.certificate, KEY: pair.key, BUNDLE: bundle}
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        if before is not None:
            # With the resourceVersion that was read, and all that others have put there.
            await self._api.replace({**before, **HEAD, "data": {**(before.get("data") or {}), **encoded}})
            return
        labels = {
            "app.kubernetes.io/name": "forebay",
            "app.kubernetes.io/instance": self._release,
            "app.kubernetes.io/part-of": "forebay",
            "app.kubernetes.io/managed-by": "forebay-operator",
        }
        await self._api.create(
            {
                **HEAD,
                "metadata": {
                    "name": name,
                    "namespace": self._namespace,
                    "labels": labels,
                    "ownerReferences": await self._owners(),
                },
                "type": "kubernetes.io/tls",
                "data": encoded,
            }
        )

    async def _owners(self) -> list[Json]:
        name = f"{self._release}-owner"
        try:
            owner = await self._api.get(KINDS.CONFIGMAP, self._namespace, name)
        except NotFound:  # not installed by the chart
            return []
        return [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner["metadata"]["uid"]}]

    def _name(self, role: Role) -> str:
        return f"{role}.{self._release}"


def _role_held(secret: Json | None) -> RoleHeld | None:
    data = _data(secret)
    paper = read_pair(_pair(data))
    return None if paper is None else RoleHeld(paper, read(data.get(BUNDLE, b"")))


def _pair(data: Mapping[str, bytes]) -> Pair:
    return Pair(data.get(CERTIFICATE, b""), data.get(KEY, b""))


def _bundle(trusted: Iterable[Paper]) -> bytes:
    return b"".join(paper.pem for paper in trusted)


def _data(secret: Json | None) -> dict[str, bytes]:
    """What a Secret holds; what is no base64 counts as missing."""
    found: dict[str, bytes] = {}
    for key, value in ((secret or {}).get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True)
        except ValueError:
            continue
    return found


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put ``files`` into place as one, and remove what was there before. Idempotent. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    version = ".." + hashlib.sha256(b"\0".join(files[name] for name in sorted(files))).hexdigest()[:16]
    latest = folder / LATEST
    if not (latest.is_symlink() and os.readlink(latest) == version):
        fresh = Path(tempfile.mkdtemp(prefix="..new-", dir=folder))  # for nobody else
        for name, content in files.items():
            (fresh / name).write_bytes(content)
            (fresh / name).chmod(0o600)
        shutil.rmtree(folder / version, ignore_errors=True)  # half a version, of a writer that was killed
        fresh.rename(folder / version)
        _link(latest, version)
    for name in files:
        if not (folder / name).is_symlink():
            _link(folder / name, f"{LATEST}/{name}")
    for old in folder.glob("..*"):
        if old.is_dir() and not old.is_symlink() and old.name != version:
            shutil.rmtree(old, ignore_errors=True)


def _link(path: Path, target: str) -> None:
    """``path`` leads to ``target`` from one moment to the next."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)
