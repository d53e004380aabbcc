from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Epoch(_message.Message):
    __slots__ = ("term", "counter")
    TERM_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    term: int
    counter: int
    def __init__(self, term: _Optional[int] = ..., counter: _Optional[int] = ...) -> None: ...

class Unit(_message.Message):
    __slots__ = ("index", "kind", "link_bytes", "resident_bytes", "parameters")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    index: int
    kind: str
    link_bytes: int
    resident_bytes: int
    parameters: int
    def __init__(self, index: _Optional[int] = ..., kind: _Optional[str] = ..., link_bytes: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., parameters: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("backbone", "uri", "dtype", "architecture", "units", "tied", "hidden_size", "layers", "vocab_size", "max_model_len", "kv_bytes_per_token_per_layer", "revision", "digest")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    TIED_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_PER_LAYER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    backbone: str
    uri: str
    dtype: str
    architecture: str
    units: _containers.RepeatedCompositeFieldContainer[Unit]
    tied: bool
    hidden_size: int
    layers: int
    vocab_size: int
    max_model_len: int
    kv_bytes_per_token_per_layer: int
    revision: str
    digest: str
    def __init__(self, backbone: _Optional[str] = ..., uri: _Optional[str] = ..., dtype: _Optional[str] = ..., architecture: _Optional[str] = ..., units: _Optional[_Iterable[_Union[Unit, _Mapping]]] = ..., tied: _Optional[bool] = ..., hidden_size: _Optional[int] = ..., layers: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_model_len: _Optional[int] = ..., kv_bytes_per_token_per_layer: _Optional[int] = ..., revision: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ModelRef(_message.Message):
    __slots__ = ("backbone", "uri", "dtype", "revision", "digest", "credentials")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    backbone: str
    uri: str
    dtype: str
    revision: str
    digest: str
    credentials: str
    def __init__(self, backbone: _Optional[str] = ..., uri: _Optional[str] = ..., dtype: _Optional[str] = ..., revision: _Optional[str] = ..., digest: _Optional[str] = ..., credentials: _Optional[str] = ...) -> None: ...

class Addresses(_message.Message):
    __slots__ = ("engine_unix", "engine_tcp", "hop_unix", "hop_tcp", "metrics")
    ENGINE_UNIX_FIELD_NUMBER: _ClassVar[int]
    ENGINE_TCP_FIELD_NUMBER: _ClassVar[int]
    HOP_UNIX_FIELD_NUMBER: _ClassVar[int]
    HOP_TCP_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    engine_unix: str
    engine_tcp: str
    hop_unix: str
    hop_tcp: str
    metrics: str
    def __init__(self, engine_unix: _Optional[str] = ..., engine_tcp: _Optional[str] = ..., hop_unix: _Optional[str] = ..., hop_tcp: _Optional[str] = ..., metrics: _Optional[str] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("worker", "first", "last", "hop_unix", "hop_tcp")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    HOP_UNIX_FIELD_NUMBER: _ClassVar[int]
    HOP_TCP_FIELD_NUMBER: _ClassVar[int]
    worker: str
    first: int
    last: int
    hop_unix: str
    hop_tcp: str
    def __init__(self, worker: _Optional[str] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., hop_unix: _Optional[str] = ..., hop_tcp: _Optional[str] = ...) -> None: ...
