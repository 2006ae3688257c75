"""The errors of the cluster.

ClusterError
├── EngineError
│   ├── QueueFull            the bounded inbox of the engine is full
│   ├── ContextOverflow      prompt (plus what must be produced) does not fit the context or the KV cache
│   ├── TokenUnknown         a token id is none of this model's
│   ├── EngineStopped        the engine ended while the sequence ran
│   │   └── ReplicaLeaves    it will end: the sequence is to go on at another before that
│   └── GrammarRefused       what a sequence is to be held to cannot be compiled
├── ExpertError
│   ├── WorkerLost           a worker's stream broke and no other copy answered in time
│   ├── WrongEpoch           a worker lacks an expert that was asked of it
│   ├── HandshakeRefused     secret, model or numerics fingerprint do not agree
│   └── FrameError           bytes on an expert stream that are no frame
├── PlacementError           experts cannot be placed on the workers that are there
└── BenchError               a benchmark cannot be run
    ├── PeerAbsent           the program to compare with is not installed
    └── PeerFailed           a program that is measured refused or ended
"""


class ClusterError(Exception):
    """Anything the world may do to the cluster."""


class EngineError(ClusterError):
    """A sequence cannot be served by this engine."""


class QueueFull(EngineError):
    """The bounded inbox of the engine is full; nothing was admitted."""


class ContextOverflow(EngineError):
    """The sequence does not fit the context length or the KV cache."""


class TokenUnknown(EngineError):
    """A sequence names a token id that is beyond the model's vocabulary; the message says which."""


class EngineStopped(EngineError):
    """The engine ended while the sequence ran."""


class ReplicaLeaves(EngineStopped):
    """The engine's replica is to go; the sequence goes on at another one, and nothing of it is lost."""


class GrammarRefused(EngineError):
    """What a sequence is to be held to cannot be compiled; the message begins with the place, then a colon."""


class ExpertError(ClusterError):
    """An expert could not answer."""


class WorkerLost(ExpertError):
    """A worker's stream broke and no other copy answered in time."""


class WrongEpoch(ExpertError):
    """A worker was asked for an expert that it does not hold at its epoch."""


class HandshakeRefused(ExpertError):
    """Secret, model or numerics fingerprint do not agree."""


class FrameError(ExpertError):
    """Bytes on an expert stream that are no frame."""


class PlacementError(ClusterError):
    """Experts cannot be placed on the workers that are there."""


class BenchError(ClusterError):
    """A benchmark cannot be run as it was asked for."""


class PeerAbsent(BenchError):
    """The program to compare with is not installed; the message says how to install it."""


class PeerFailed(BenchError):
    """A program that is measured refused an order, or ended; the message is its own."""
