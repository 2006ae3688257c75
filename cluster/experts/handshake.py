"""The handshake: what two processes must agree on before rows pass between them, and the cluster's secret."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields

from torch import Tensor

from cluster.experts.wire import PROTOCOL
from model.checkpoint.weights import ExpertWeights, WeightSource
from model.mxfp4 import Mxfp4Tensor

SECRET_KEY = "expertmesh-secret-bin"
"""Metadata key of the cluster's secret."""
INCARNATION_KEY = "expertmesh-worker-incarnation"
"""Metadata key of the worker's incarnation on an Exchange stream."""
READY_KEY = "expertmesh-ready"
"""Metadata key that an Exchange stream begins with once it is admitted."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What must be equal on both sides."""

    model_digest: str
    """See `model_digest`."""
    fingerprint: str
    """Numerics fingerprint."""
    protocol: int = PROTOCOL

    def difference(self, other: "Agreement") -> str | None:
        """Return what differs between this side's and the `other` side's values; None if nothing does."""
        found = [
            f"{field.name.replace('_', ' ')} {getattr(self, field.name)!r} is not {getattr(other, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
        return "; ".join(found) or None


def new_incarnation() -> int:
    """Return a random 64-bit number that marks one process's life."""
    return secrets.randbits(64)


def is_secret(given: bytes | str | None, secret: str) -> bool:
    """Compare the secret that came with a call, in a time that tells nothing of where they differ."""
    given_bytes = given.encode() if isinstance(given, str) else given or b""
    return hmac.compare_digest(hashlib.sha256(given_bytes).digest(), hashlib.sha256(secret.encode()).digest())


def model_digest(source: WeightSource) -> str:
    """Return 16 hex digits over the configuration of `source`, its gates and one expert of each layer.

    Tells models of equal dimensions apart without reading all of either.
    """
    config = source.config
    digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode())
    for layer in range(config.num_layers):
        digest.update(source.gate(layer).weight.cpu().float().numpy().tobytes())
        for part in _expert_parts(source.expert(layer, layer % config.num_experts)):
            digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _expert_parts(weights: ExpertWeights) -> Iterator[Tensor]:
    for field in fields(weights):
        weight = getattr(weights, field.name)
        if isinstance(weight, Mxfp4Tensor):
            yield from (weight.blocks, weight.scales)
        else:
            yield weight.float()
