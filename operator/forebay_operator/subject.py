"""What a worker is asked to look at."""

from __future__ import annotations

from typing import NamedTuple

from forebay_api.function import Function
from forebay_operator.credentials import SecretKey


class Subject(NamedTuple):
    """With other credentials the answer may be another. ``digest``: that the files must make."""

    uri: str
    dtype: str
    revision: str = ""
    digest: str = ""
    secret: SecretKey | None = None

    @classmethod
    def of(cls, function: Function) -> Subject:
        model = function.spec.model
        return cls(model.uri, model.dtype, model.revision or "", model.digest or "", SecretKey.of(function))

    @property
    def remote(self) -> bool:
        return not self.uri.startswith("file://")
