"""One model behind each kind of source, with what it takes to fetch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from artifact.servers import FileServer, HubServer
from forebay_worker.artifact.access import Access, Secret

TOKEN = "hf_averysecrettoken"
S3_ID, S3_SECRET = "AKIAVERYSECRETID", "averysecretkey"


@dataclass(frozen=True)
class Sources:
    """``uri(kind, name)`` is that of the model called ``name``, put there by ``add``; kinds are hf, s3 and https."""

    hub: HubServer
    web: FileServer
    put_object: Callable[[str, bytes], None]

    def add(self, name: str, folder: Path) -> None:
        self.hub.add(f"org/{name}", folder)
        self.web.put(f"/models/{name}", folder)
        for path in folder.iterdir():
            self.put_object(f"models/{name}/{path.name}", path.read_bytes())

    def uri(self, kind: str, name: str) -> str:
        return {
            "hf": f"hf://org/{name}",
            "s3": f"s3://bucket/models/{name}",
            "https": f"{self.web.url}/models/{name}/",
        }[kind]


def access(kind: str, **more: str) -> Access:
    return Access(credentials=Secret({"s3": f"{S3_ID}:{S3_SECRET}"}.get(kind, TOKEN)), **more)
