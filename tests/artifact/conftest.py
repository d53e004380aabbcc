"""Sources on loopback, and a cache for each test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from artifact.servers import FileServer, HubServer, Tls
from artifact.sources import S3_ID, S3_SECRET, Sources
from forebay_worker.artifact import artifact


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A local S3, with an empty bucket called "bucket"; its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def bucket(s3: str) -> Iterator[Any]:
    """A client of it: making one takes longer than most of what tests ask."""
    client = boto3.client(
        "s3", endpoint_url=s3, aws_access_key_id=S3_ID, aws_secret_access_key=S3_SECRET, region_name="us-east-1"
    )
    yield client
    client.close()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache, which the environment names. What this process knew of sources is forgotten."""
    monkeypatch.setenv("FOREBAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FOREBAY_CACHE_BYTES", raising=False)
    artifact._remotes.clear()
    return tmp_path / "cache" / "models"


@pytest.fixture
def world(cache: Path, s3: str, bucket: Any, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    """All three sources, empty, and an environment in which they are found."""
    bucket.create_bucket(Bucket="bucket")
    hub, web = HubServer(), FileServer(tls)
    for name, value in {
        "FOREBAY_HF_ENDPOINT": hub.url,
        "AWS_ENDPOINT_URL": s3,
        "SSL_CERT_FILE": str(tls.authority),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield Sources(hub, web, lambda key, body: bucket.put_object(Bucket="bucket", Key=key, Body=body))
    hub.close()
    web.close()
    for item in bucket.list_objects_v2(Bucket="bucket").get("Contents", []):
        bucket.delete_object(Bucket="bucket", Key=item["Key"])
    bucket.delete_bucket(Bucket="bucket")


@pytest.fixture
def model(world: Sources, tiny: Callable[[str], Path]) -> Path:
    """The folder of a tiny model that every source has under the name "m"."""
    world.add("m", tiny("llama"))
    return tiny("llama")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """So small that a tiny model has many; in bytes."""
    monkeypatch.setattr(artifact.Artifact, "block_bytes", 64 << 10)
    return 64 << 10


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is away is given up at once."""
    from forebay_worker.artifact import store

    monkeypatch.setattr(store, "PATIENCE", 0.3)
