from forebay_wire.v1 import model_pb2 as _model_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PreviewRequest(_message.Message):
    __slots__ = ("uri", "dtype", "revision", "pool")
    URI_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    uri: str
    dtype: str
    revision: str
    pool: str
    def __init__(self, uri: _Optional[str] = ..., dtype: _Optional[str] = ..., revision: _Optional[str] = ..., pool: _Optional[str] = ...) -> None: ...

class PreviewAnswer(_message.Message):
    __slots__ = ("reason", "message", "model")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    model: _model_pb2.Model
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...
