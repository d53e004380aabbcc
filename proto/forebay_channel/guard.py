"""Who may call which service: the role in the caller's certificate decides."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

import grpc

from forebay_channel.identity import Identity, Role
from forebay_channel.refusal import refuse

SUBJECTS = "x509_subject_alternative_name"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Check = Callable[[Any, Context], Awaitable[None]]

BEHAVIOURS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class Guard(grpc.aio.ServerInterceptor):
    """Answers PERMISSION_DENIED to callers whose certificate names none of the roles that ``allowed`` has for the
    service; a service that it does not have is closed to all. Callers over a unix socket pass, and without an identity
    everybody does. A caller in plain text over the network never passes: serve those on a server of their own."""

    def __init__(self, allowed: Mapping[str, Iterable[Role]], identity: Identity | None) -> None:
        self._identity = identity
        self._names = (
            {service: frozenset(identity.name(role) for role in roles) for service, roles in allowed.items()}
            if identity
            else {}
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if self._identity is None or handler is None:
            return handler
        service = handler_call_details.method.removeprefix("/").rpartition("/")[0]
        expected = self._names.get(service, frozenset())

        async def check(request: Any, context: Context) -> None:
            if not context.peer().startswith("unix:") and not _names(context) & expected:
                wanted = " or ".join(sorted(expected)) or "nobody"
                details = f"{service} is for {wanted}, by the name in the certificate"
                await refuse(request, context, grpc.StatusCode.PERMISSION_DENIED, details)

        return _checked(handler, check)


def _names(context: Context) -> frozenset[str]:
    """The names in the caller's certificate; none for a caller without one."""
    found: Iterable[bytes] = context.auth_context().get(SUBJECTS, ())
    return frozenset(name.decode("ascii", "replace") for name in found)


def _checked(handler: Handler, check: Check) -> Handler:
    """The handler, and before it the check, which aborts the call or returns."""
    behaviour, make = BEHAVIOURS[bool(handler.request_streaming), bool(handler.response_streaming)]
    inner = getattr(handler, behaviour)
    wrapped: Callable[[Any, Context], Any]
    if inspect.isasyncgenfunction(inner):

        async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
            await check(request, context)
            # Closed with the call, not when somebody collects it: a caller that is gone frees its place at once.
            async with contextlib.aclosing(inner(request, context)) as responses:
                async for response in responses:
                    yield response

        wrapped = generate
    else:

        async def run(request: Any, context: Context) -> Any:
            await check(request, context)
            return await inner(request, context)

        wrapped = run
    made: Handler = make(
        wrapped, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )
    return made
