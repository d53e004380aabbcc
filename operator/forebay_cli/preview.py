"""Asking the operator of a cluster to have a worker look at a model that no function names yet."""

from __future__ import annotations

import grpc

from forebay_api.function import Function
from forebay_api.model import Model
from forebay_cli.view import LOOPBACK, OperatorAway
from forebay_operator import wire
from forebay_wire.v1 import preview_pb2, preview_pb2_grpc

ANSWER_SECONDS = 40.0
"""How long the operator may take: longer than it gives a worker."""

APPLY = (
    "apply it, with spec.suspend: true if nobody should call it, and plan again once its condition "
    "ModelResolved is True"
)


class Unseen(Exception):
    """Nobody could say what the model is. The text is for people."""


async def look(target: str, function: Function) -> Model:
    """What a worker of the function's pool finds. Raises Unseen and OperatorAway."""
    wanted = function.spec.model
    if wanted.credentials is not None:
        raise Unseen(f"{function.key}: spec.model.credentials: a Secret is read for functions only: {APPLY}")
    request = preview_pb2.PreviewRequest(
        uri=wanted.uri, dtype=wanted.dtype, revision=wanted.revision or "", pool=function.spec.pool
    )
    async with grpc.aio.insecure_channel(target, options=LOOPBACK) as channel:
        try:
            answer = await preview_pb2_grpc.PreviewStub(channel).Look(request, timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise Unseen(f"{function.key}: the operator there is older than this forebay plan: {APPLY}") from error
            raise OperatorAway(f"the operator at {target} does not answer: {error.details()}") from error
    if answer.reason:
        raise Unseen(f"{function.key}: {answer.reason}: {answer.message}")
    try:
        return wire.model(answer.model)
    except ValueError as error:
        raise Unseen(f"{function.key}: the operator there is newer than this forebay plan: {error}") from error
