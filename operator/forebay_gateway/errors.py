"""What can go wrong with a request, as its caller sees it.

    GatewayError
    ├── CallerError               the caller's fault: the same request fails again
    │   ├── InvalidRequest        400  invalid JSON, a wrong type, a value out of range, a parameter not supported
    │   ├── ContextTooLong        400  context_length_exceeded
    │   ├── AnswerTooLarge        400  answer_too_large
    │   ├── ModelNotFound         404  model_not_found
    │   ├── PathNotFound          404  not_found
    │   ├── MethodNotAllowed      405  method_not_allowed
    │   ├── BodyTooSlow           408  body_too_slow
    │   └── BodyTooLarge          413  body_too_large
    ├── Refusal                   nothing wrong with it, but not now: says when to come back
    │   ├── QueueFull             429  queue_full
    │   ├── ColdStartTimeout      503  cold_start_timeout
    │   ├── NoCapacity            503  no_capacity
    │   └── Suspended             503  suspended           a person switched the function off
    ├── TimedOut                  504  timeout
    └── Broken                    500  internal_error      ours

The numbers and words stand once, in ``STATUS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class CannotStart(Exception):
    """The gateway cannot listen there, or cannot write its state folder. The text says what would be right."""


class PortTaken(CannotStart):
    """Another process listens where the gateway should."""


class GatewayError(Exception):
    """``param`` names the field of the request that is wrong."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after: int | None = None
        self.hopeless = False


class CallerError(GatewayError):
    """The same request fails again."""


class InvalidRequest(CallerError): ...


class ContextTooLong(CallerError): ...


class AnswerTooLarge(CallerError): ...


class ModelNotFound(CallerError): ...


class PathNotFound(CallerError): ...


class MethodNotAllowed(CallerError):
    """``allowed``: the methods that this path answers."""

    def __init__(self, message: str, allowed: frozenset[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class BodyTooSlow(CallerError): ...


class BodyTooLarge(CallerError): ...


class Refusal(GatewayError):
    """``retry_after`` in seconds; ``hopeless``: capacity cannot come until a person acts, so nobody should retry."""

    def __init__(self, message: str, *, retry_after: int | None = None, hopeless: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.hopeless = hopeless


class QueueFull(Refusal): ...


class ColdStartTimeout(Refusal): ...


class NoCapacity(Refusal): ...


class Suspended(Refusal): ...


class TimedOut(GatewayError): ...


class Broken(GatewayError): ...


class Status(NamedTuple):
    """HTTP status, and ``type`` and ``code`` of the OpenAI error object."""

    http: int
    type: str
    code: str | None


STATUS: Mapping[type[GatewayError], Status] = {
    InvalidRequest: Status(400, "invalid_request_error", None),
    ContextTooLong: Status(400, "invalid_request_error", "context_length_exceeded"),
    AnswerTooLarge: Status(400, "invalid_request_error", "answer_too_large"),
    ModelNotFound: Status(404, "invalid_request_error", "model_not_found"),
    PathNotFound: Status(404, "invalid_request_error", "not_found"),
    MethodNotAllowed: Status(405, "invalid_request_error", "method_not_allowed"),
    BodyTooSlow: Status(408, "invalid_request_error", "body_too_slow"),
    BodyTooLarge: Status(413, "invalid_request_error", "body_too_large"),
    QueueFull: Status(429, "rate_limit_error", "queue_full"),
    ColdStartTimeout: Status(503, "service_unavailable", "cold_start_timeout"),
    NoCapacity: Status(503, "service_unavailable", "no_capacity"),
    Suspended: Status(503, "service_unavailable", "suspended"),
    TimedOut: Status(504, "timeout", "timeout"),
    Broken: Status(500, "server_error", "internal_error"),
}


def body(error: GatewayError) -> dict[str, object]:
    """The OpenAI error object."""
    status = STATUS[type(error)]
    return {"error": {"message": error.message, "type": status.type, "param": error.param, "code": status.code}}


def headers(error: GatewayError) -> dict[str, str]:
    """When to come back, in the words that the OpenAI client obeys."""
    found: dict[str, str] = {}
    if error.hopeless:
        found["x-should-retry"] = "false"
    elif error.retry_after is not None:
        found["Retry-After"] = str(error.retry_after)
    if isinstance(error, MethodNotAllowed):
        found["Allow"] = ", ".join(sorted(error.allowed))
    return found
