"""hf://: the model hub and its mirrors. The listing by huggingface_hub, bytes by range from a fixed commit.

Transformers stays offline in our processes (``HF_HUB_OFFLINE``), since no model may reach for the net behind our back.
That rule sits in the hub library's default HTTP client; ours, made here, does without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

import httpx2
import structlog
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling
from obstore.store import HTTPStore

from forebay_worker.artifact import endpoints
from forebay_worker.artifact.access import Access
from forebay_worker.artifact.errors import (
    ARTIFACT_NOT_FOUND,
    INVALID_CHECKPOINT,
    SOURCE_UNAVAILABLE,
    UNAUTHORIZED,
    CheckpointError,
)
from forebay_worker.artifact.listing import SMALL_BYTES, File, Listing, select
from forebay_worker.artifact.remote import Chunk
from forebay_worker.artifact.store import RETRY, Store, client_options
from forebay_worker.artifact.uri import Uri

log = structlog.get_logger(__name__)

TIMEOUT = 8.0
"""Seconds for the listing."""

_client = threading.Lock()
_client_made = False


class Hub:
    """One repository. A token comes with the request, else from ``HF_TOKEN``; none = what is public."""

    def __init__(self, uri: Uri, access: Access, environ: Mapping[str, str] = os.environ) -> None:
        self._uri = uri
        self._revision = access.revision or uri.revision or "main"
        self._endpoint = endpoints.hub(environ)
        self._token = access.credentials.value.strip() or environ.get("HF_TOKEN", "").strip()
        self._environ = environ
        self._stores: dict[str, Store] = {}
        self._commit = access.revision if access.pinned else ""

    def resolve(self) -> Listing:
        _own_client()
        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        try:
            info = api.model_info(self._uri.path, revision=self._revision, timeout=TIMEOUT, files_metadata=True)
        except GatedRepoError:
            raise self._refused(UNAUTHORIZED, "is gated: a token of somebody who was let in is needed") from None
        except RevisionNotFoundError:
            raise self._refused(ARTIFACT_NOT_FOUND, f"has no revision {self._revision}") from None
        except RepositoryNotFoundError as error:
            raise self._missing(error) from None
        except HfHubHTTPError as error:
            raise self._translated(error.response.status_code) from None
        except httpx2.TransportError as error:
            raise self._refused(SOURCE_UNAVAILABLE, f"cannot be asked ({type(error).__name__})") from None
        except ValueError:
            raise self._refused(SOURCE_UNAVAILABLE, "was answered with something that is no listing") from None
        if not info.sha or info.siblings is None:
            raise self._refused(INVALID_CHECKPOINT, "was listed without a commit or without files")
        self._commit = info.sha
        return select(self._uri.identity, map(_file, info.siblings), info.sha)

    def read(self, file: File, begin: int, end: int) -> Chunk:
        return self._store().read(file.name, begin, end)

    def whole(self, file: File) -> Chunk:
        return self._store().whole(file.name, SMALL_BYTES)

    def _store(self) -> Store:
        """Of the commit. The address of the bytes behind a redirect is signed and ends; so each read asks anew."""
        if self._commit not in self._stores:
            address = f"{self._endpoint}/{self._uri.path}/resolve/{self._commit}"
            headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
            options = client_options(self._endpoint, headers, self._environ)
            self._stores[self._commit] = Store(
                self._uri.identity, HTTPStore(address, client_options=options, retry_config=RETRY)
            )
        return self._stores[self._commit]

    def _refused(self, reason: str, text: str) -> CheckpointError:
        return CheckpointError(reason, f"{self._uri.identity}: {text}")

    def _missing(self, error: RepositoryNotFoundError) -> CheckpointError:
        if error.response.status_code == 401:
            return self._refused(UNAUTHORIZED, "no such repository, or one that these credentials may not see")
        return self._refused(ARTIFACT_NOT_FOUND, "no such repository")

    def _translated(self, status: int) -> CheckpointError:
        if status in (401, 403):
            return self._refused(UNAUTHORIZED, "may not be read with these credentials (spec.model.credentials)")
        if status in (408, 425, 429) or status >= 500:
            return self._refused(SOURCE_UNAVAILABLE, f"the hub answers {status}")
        return self._refused(ARTIFACT_NOT_FOUND, f"the hub answers {status}")


def _file(sibling: RepoSibling) -> File:
    large = sibling.lfs.sha256 if sibling.lfs else ""
    return File(
        sibling.rfilename, -1 if sibling.size is None else sibling.size, large, "" if large else sibling.blob_id or ""
    )


def _own_client() -> None:
    global _client_made
    with _client:
        if not _client_made:
            set_client_factory(lambda: httpx2.Client(follow_redirects=True, timeout=TIMEOUT))
            _client_made = True
