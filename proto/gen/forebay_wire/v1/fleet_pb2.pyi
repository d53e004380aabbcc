from forebay_wire.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Device(_message.Message):
    __slots__ = ("kind", "name", "uuid", "memory_bytes", "compute", "link_bytes_per_second", "bucket", "bucket_bytes_per_second")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    BUCKET_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    uuid: str
    memory_bytes: int
    compute: _containers.RepeatedScalarFieldContainer[str]
    link_bytes_per_second: float
    bucket: str
    bucket_bytes_per_second: float
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., uuid: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., compute: _Optional[_Iterable[str]] = ..., link_bytes_per_second: _Optional[float] = ..., bucket: _Optional[str] = ..., bucket_bytes_per_second: _Optional[float] = ...) -> None: ...

class UnitState(_message.Message):
    __slots__ = ("unit", "phase", "asked_unix_us", "landed_unix_us", "bytes")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        QUEUED: _ClassVar[UnitState.Phase]
        LOADING: _ClassVar[UnitState.Phase]
        RESIDENT: _ClassVar[UnitState.Phase]
    QUEUED: UnitState.Phase
    LOADING: UnitState.Phase
    RESIDENT: UnitState.Phase
    UNIT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ASKED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    LANDED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    unit: int
    phase: UnitState.Phase
    asked_unix_us: int
    landed_unix_us: int
    bytes: int
    def __init__(self, unit: _Optional[int] = ..., phase: _Optional[_Union[UnitState.Phase, str]] = ..., asked_unix_us: _Optional[int] = ..., landed_unix_us: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class Holding(_message.Message):
    __slots__ = ("model", "units", "order", "error")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    units: _containers.RepeatedCompositeFieldContainer[UnitState]
    order: _containers.RepeatedScalarFieldContainer[int]
    error: str
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., units: _Optional[_Iterable[_Union[UnitState, _Mapping]]] = ..., order: _Optional[_Iterable[int]] = ..., error: _Optional[str] = ...) -> None: ...

class PipelineState(_message.Message):
    __slots__ = ("epoch", "backbone", "stages", "phase", "head", "running", "waiting", "kv_blocks", "kv_blocks_free", "reason", "kv_bytes")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FORMED: _ClassVar[PipelineState.Phase]
        DRAINING: _ClassVar[PipelineState.Phase]
        DRAINED: _ClassVar[PipelineState.Phase]
        BROKEN: _ClassVar[PipelineState.Phase]
    FORMED: PipelineState.Phase
    DRAINING: PipelineState.Phase
    DRAINED: PipelineState.Phase
    BROKEN: PipelineState.Phase
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FREE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    epoch: _model_pb2.Epoch
    backbone: str
    stages: _containers.RepeatedCompositeFieldContainer[_model_pb2.Stage]
    phase: PipelineState.Phase
    head: bool
    running: int
    waiting: int
    kv_blocks: int
    kv_blocks_free: int
    reason: str
    kv_bytes: int
    def __init__(self, epoch: _Optional[_Union[_model_pb2.Epoch, _Mapping]] = ..., backbone: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[_model_pb2.Stage, _Mapping]]] = ..., phase: _Optional[_Union[PipelineState.Phase, str]] = ..., head: _Optional[bool] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_blocks: _Optional[int] = ..., kv_blocks_free: _Optional[int] = ..., reason: _Optional[str] = ..., kv_bytes: _Optional[int] = ...) -> None: ...

class ComputeSample(_message.Message):
    __slots__ = ("tokens", "seconds")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    seconds: float
    def __init__(self, tokens: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ("backbone", "layer", "head", "error")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    backbone: str
    layer: _containers.RepeatedCompositeFieldContainer[ComputeSample]
    head: _containers.RepeatedCompositeFieldContainer[ComputeSample]
    error: str
    def __init__(self, backbone: _Optional[str] = ..., layer: _Optional[_Iterable[_Union[ComputeSample, _Mapping]]] = ..., head: _Optional[_Iterable[_Union[ComputeSample, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class Inspection(_message.Message):
    __slots__ = ("id", "reason", "message", "model")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    message: str
    model: _model_pb2.Model
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("reason", "message", "unix_us", "backbone")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    UNIX_US_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    unix_us: int
    backbone: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., unix_us: _Optional[int] = ..., backbone: _Optional[str] = ...) -> None: ...

class WorkerReport(_message.Message):
    __slots__ = ("name", "incarnation", "pid", "node", "state", "device", "addresses", "holdings", "pipelines", "prepared", "inspections", "faults", "term", "counter", "bytes_read", "row_bytes_read", "resident_bytes", "kv_reserved_bytes", "process_bytes", "process_peak_bytes", "unix_us", "bare_bytes", "pod_uid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    PIPELINES_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    INSPECTIONS_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    ROW_BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNIX_US_FIELD_NUMBER: _ClassVar[int]
    BARE_BYTES_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    name: str
    incarnation: str
    pid: int
    node: str
    state: str
    device: Device
    addresses: _model_pb2.Addresses
    holdings: _containers.RepeatedCompositeFieldContainer[Holding]
    pipelines: _containers.RepeatedCompositeFieldContainer[PipelineState]
    prepared: _containers.RepeatedCompositeFieldContainer[Prepared]
    inspections: _containers.RepeatedCompositeFieldContainer[Inspection]
    faults: _containers.RepeatedCompositeFieldContainer[Fault]
    term: int
    counter: int
    bytes_read: int
    row_bytes_read: int
    resident_bytes: int
    kv_reserved_bytes: int
    process_bytes: int
    process_peak_bytes: int
    unix_us: int
    bare_bytes: int
    pod_uid: str
    def __init__(self, name: _Optional[str] = ..., incarnation: _Optional[str] = ..., pid: _Optional[int] = ..., node: _Optional[str] = ..., state: _Optional[str] = ..., device: _Optional[_Union[Device, _Mapping]] = ..., addresses: _Optional[_Union[_model_pb2.Addresses, _Mapping]] = ..., holdings: _Optional[_Iterable[_Union[Holding, _Mapping]]] = ..., pipelines: _Optional[_Iterable[_Union[PipelineState, _Mapping]]] = ..., prepared: _Optional[_Iterable[_Union[Prepared, _Mapping]]] = ..., inspections: _Optional[_Iterable[_Union[Inspection, _Mapping]]] = ..., faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., term: _Optional[int] = ..., counter: _Optional[int] = ..., bytes_read: _Optional[int] = ..., row_bytes_read: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., kv_reserved_bytes: _Optional[int] = ..., process_bytes: _Optional[int] = ..., process_peak_bytes: _Optional[int] = ..., unix_us: _Optional[int] = ..., bare_bytes: _Optional[int] = ..., pod_uid: _Optional[str] = ...) -> None: ...

class Inspect(_message.Message):
    __slots__ = ("id", "uri", "dtype", "revision", "digest", "credentials")
    ID_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    id: str
    uri: str
    dtype: str
    revision: str
    digest: str
    credentials: str
    def __init__(self, id: _Optional[str] = ..., uri: _Optional[str] = ..., dtype: _Optional[str] = ..., revision: _Optional[str] = ..., digest: _Optional[str] = ..., credentials: _Optional[str] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("model", "probe")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    probe: bool
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., probe: _Optional[bool] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("model", "order", "urgent")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    URGENT_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    order: _containers.RepeatedScalarFieldContainer[int]
    urgent: int
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., order: _Optional[_Iterable[int]] = ..., urgent: _Optional[int] = ...) -> None: ...

class Drop(_message.Message):
    __slots__ = ("backbone", "units")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    backbone: str
    units: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, backbone: _Optional[str] = ..., units: _Optional[_Iterable[int]] = ...) -> None: ...

class Form(_message.Message):
    __slots__ = ("epoch", "model", "stages", "kv_blocks", "block_tokens", "steps_in_flight", "max_model_len")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    epoch: _model_pb2.Epoch
    model: _model_pb2.ModelRef
    stages: _containers.RepeatedCompositeFieldContainer[_model_pb2.Stage]
    kv_blocks: int
    block_tokens: int
    steps_in_flight: int
    max_model_len: int
    def __init__(self, epoch: _Optional[_Union[_model_pb2.Epoch, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[_model_pb2.Stage, _Mapping]]] = ..., kv_blocks: _Optional[int] = ..., block_tokens: _Optional[int] = ..., steps_in_flight: _Optional[int] = ..., max_model_len: _Optional[int] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: _model_pb2.Epoch
    def __init__(self, epoch: _Optional[_Union[_model_pb2.Epoch, _Mapping]] = ...) -> None: ...

class Dissolve(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: _model_pb2.Epoch
    def __init__(self, epoch: _Optional[_Union[_model_pb2.Epoch, _Mapping]] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("term", "inspect", "prepare", "hold", "drop", "form", "drain", "dissolve")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INSPECT_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    DISSOLVE_FIELD_NUMBER: _ClassVar[int]
    term: int
    inspect: Inspect
    prepare: Prepare
    hold: Hold
    drop: Drop
    form: Form
    drain: Drain
    dissolve: Dissolve
    def __init__(self, term: _Optional[int] = ..., inspect: _Optional[_Union[Inspect, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., drop: _Optional[_Union[Drop, _Mapping]] = ..., form: _Optional[_Union[Form, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., dissolve: _Optional[_Union[Dissolve, _Mapping]] = ...) -> None: ...
