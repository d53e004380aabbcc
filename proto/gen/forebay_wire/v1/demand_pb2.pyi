from forebay_wire.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FunctionDemand(_message.Message):
    __slots__ = ("namespace", "name", "waiting", "in_flight", "oldest_waiting_unix_us", "last_ended_unix_us", "prompt_bytes", "requests", "tokens")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAITING_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    LAST_ENDED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    PROMPT_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    waiting: int
    in_flight: int
    oldest_waiting_unix_us: int
    last_ended_unix_us: int
    prompt_bytes: int
    requests: int
    tokens: int
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., waiting: _Optional[int] = ..., in_flight: _Optional[int] = ..., oldest_waiting_unix_us: _Optional[int] = ..., last_ended_unix_us: _Optional[int] = ..., prompt_bytes: _Optional[int] = ..., requests: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class FirstToken(_message.Message):
    __slots__ = ("namespace", "name", "request_id", "arrived_unix_us", "first_token_unix_us", "epoch")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    request_id: str
    arrived_unix_us: int
    first_token_unix_us: int
    epoch: _model_pb2.Epoch
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., request_id: _Optional[str] = ..., arrived_unix_us: _Optional[int] = ..., first_token_unix_us: _Optional[int] = ..., epoch: _Optional[_Union[_model_pb2.Epoch, _Mapping]] = ...) -> None: ...

class DemandReport(_message.Message):
    __slots__ = ("gateway", "functions", "first_tokens")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    functions: _containers.RepeatedCompositeFieldContainer[FunctionDemand]
    first_tokens: _containers.RepeatedCompositeFieldContainer[FirstToken]
    def __init__(self, gateway: _Optional[str] = ..., functions: _Optional[_Iterable[_Union[FunctionDemand, _Mapping]]] = ..., first_tokens: _Optional[_Iterable[_Union[FirstToken, _Mapping]]] = ...) -> None: ...

class DemandAck(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RoutesRequest(_message.Message):
    __slots__ = ("gateway",)
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    def __init__(self, gateway: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "fraction", "eta_seconds")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    phase: str
    fraction: float
    eta_seconds: float
    def __init__(self, phase: _Optional[str] = ..., fraction: _Optional[float] = ..., eta_seconds: _Optional[float] = ...) -> None: ...

class FunctionRoute(_message.Message):
    __slots__ = ("namespace", "name", "uid", "model_name", "backbone", "adapter", "state", "refusal_reason", "refusal_message", "container_concurrency", "timeout_seconds", "queue_max_requests", "queue_timeout_seconds", "cold_start_timeout_seconds", "max_model_len", "created_unix_us", "progress")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_REASON_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MAX_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COLD_START_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    uid: str
    model_name: str
    backbone: str
    adapter: str
    state: str
    refusal_reason: str
    refusal_message: str
    container_concurrency: int
    timeout_seconds: int
    queue_max_requests: int
    queue_timeout_seconds: int
    cold_start_timeout_seconds: int
    max_model_len: int
    created_unix_us: int
    progress: Progress
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ..., model_name: _Optional[str] = ..., backbone: _Optional[str] = ..., adapter: _Optional[str] = ..., state: _Optional[str] = ..., refusal_reason: _Optional[str] = ..., refusal_message: _Optional[str] = ..., container_concurrency: _Optional[int] = ..., timeout_seconds: _Optional[int] = ..., queue_max_requests: _Optional[int] = ..., queue_timeout_seconds: _Optional[int] = ..., cold_start_timeout_seconds: _Optional[int] = ..., max_model_len: _Optional[int] = ..., created_unix_us: _Optional[int] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class PipelineRoute(_message.Message):
    __slots__ = ("epoch", "backbone", "head", "engine_unix", "engine_tcp", "stages", "kv_tokens")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ENGINE_UNIX_FIELD_NUMBER: _ClassVar[int]
    ENGINE_TCP_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    epoch: _model_pb2.Epoch
    backbone: str
    head: str
    engine_unix: str
    engine_tcp: str
    stages: int
    kv_tokens: int
    def __init__(self, epoch: _Optional[_Union[_model_pb2.Epoch, _Mapping]] = ..., backbone: _Optional[str] = ..., head: _Optional[str] = ..., engine_unix: _Optional[str] = ..., engine_tcp: _Optional[str] = ..., stages: _Optional[int] = ..., kv_tokens: _Optional[int] = ...) -> None: ...

class RouteTable(_message.Message):
    __slots__ = ("term", "version", "functions", "pipelines")
    TERM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    PIPELINES_FIELD_NUMBER: _ClassVar[int]
    term: int
    version: int
    functions: _containers.RepeatedCompositeFieldContainer[FunctionRoute]
    pipelines: _containers.RepeatedCompositeFieldContainer[PipelineRoute]
    def __init__(self, term: _Optional[int] = ..., version: _Optional[int] = ..., functions: _Optional[_Iterable[_Union[FunctionRoute, _Mapping]]] = ..., pipelines: _Optional[_Iterable[_Union[PipelineRoute, _Mapping]]] = ...) -> None: ...
