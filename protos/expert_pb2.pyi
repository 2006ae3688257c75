from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "model_digest", "fingerprint", "dispatcher_incarnation")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DISPATCHER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    model_digest: str
    fingerprint: str
    dispatcher_incarnation: int
    def __init__(self, protocol: _Optional[int] = ..., model_digest: _Optional[str] = ..., fingerprint: _Optional[str] = ..., dispatcher_incarnation: _Optional[int] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("worker_id", "worker_incarnation", "epoch", "num_resident")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUM_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    worker_incarnation: int
    epoch: int
    num_resident: int
    def __init__(self, worker_id: _Optional[str] = ..., worker_incarnation: _Optional[int] = ..., epoch: _Optional[int] = ..., num_resident: _Optional[int] = ...) -> None: ...

class ExpertId(_message.Message):
    __slots__ = ("layer", "expert")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    layer: int
    expert: int
    def __init__(self, layer: _Optional[int] = ..., expert: _Optional[int] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("epoch", "experts")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    experts: _containers.RepeatedCompositeFieldContainer[ExpertId]
    def __init__(self, epoch: _Optional[int] = ..., experts: _Optional[_Iterable[_Union[ExpertId, _Mapping]]] = ...) -> None: ...

class PutReply(_message.Message):
    __slots__ = ("num_resident", "weight_bytes")
    NUM_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    num_resident: int
    weight_bytes: int
    def __init__(self, num_resident: _Optional[int] = ..., weight_bytes: _Optional[int] = ...) -> None: ...

class DropRequest(_message.Message):
    __slots__ = ("epoch", "experts")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    experts: _containers.RepeatedCompositeFieldContainer[ExpertId]
    def __init__(self, epoch: _Optional[int] = ..., experts: _Optional[_Iterable[_Union[ExpertId, _Mapping]]] = ...) -> None: ...

class DropReply(_message.Message):
    __slots__ = ("num_resident", "weight_bytes")
    NUM_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    num_resident: int
    weight_bytes: int
    def __init__(self, num_resident: _Optional[int] = ..., weight_bytes: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("worker_id", "worker_incarnation", "epoch", "weight_bytes", "resident", "num_dispatchers", "num_frames", "num_pairs", "busy_s")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    NUM_DISPATCHERS_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    NUM_PAIRS_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    worker_incarnation: int
    epoch: int
    weight_bytes: int
    resident: _containers.RepeatedCompositeFieldContainer[ExpertId]
    num_dispatchers: int
    num_frames: int
    num_pairs: int
    busy_s: float
    def __init__(self, worker_id: _Optional[str] = ..., worker_incarnation: _Optional[int] = ..., epoch: _Optional[int] = ..., weight_bytes: _Optional[int] = ..., resident: _Optional[_Iterable[_Union[ExpertId, _Mapping]]] = ..., num_dispatchers: _Optional[int] = ..., num_frames: _Optional[int] = ..., num_pairs: _Optional[int] = ..., busy_s: _Optional[float] = ...) -> None: ...
