"""WeightChunks: the pieces of each stored tensor in a format, from any source; one layer in memory at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from model.checkpoint.layout import CheckpointFormat, TensorPiece
from model.checkpoint.weights import ExpertMatrix, ExpertWeights, WeightSource
from model.kernels.mxfp4_linear import Mxfp4Weight
from model.mxfp4 import Mxfp4Tensor, dequantize, quantize


class WeightChunks:
    """Turns what a source gives by canonical name into what a format stores."""

    def __init__(self, source: WeightSource, checkpoint_format: CheckpointFormat) -> None:
        self._source = source
        self._format = checkpoint_format
        self._scope: str | None = None
        self._values: object = None

    def of(self, piece: TensorPiece) -> Iterator[Tensor]:
        """Return the values of a stored tensor, expert by expert or all at once."""
        scope, _, field = piece.canonical.rpartition(".")
        if scope.endswith(".experts"):
            return (_stored_field(expert, field) for expert in self.experts(scope))
        value: Tensor = getattr(self._dense(scope), field)
        return iter([value[piece.first_row : piece.first_row + piece.stored.shape[0]]])

    def _dense(self, scope: str) -> object:
        if scope != self._scope:
            self._source.release()
            self._scope, self._values = scope, self._read_dense(scope)
        return self._values

    def _read_dense(self, scope: str) -> object:
        match scope.split("."):
            case [""]:
                return self._source.embedding()
            case ["head"]:
                return self._source.head()
            case ["layers", layer, "attention"]:
                return self._source.attention(int(layer))
            case ["layers", layer, "gate"]:
                return self._source.gate(int(layer))
            case _:
                raise AssertionError(f"no weights have the canonical name {scope}")

    def experts(self, scope: str) -> list[ExpertWeights]:
        """Return the experts of `scope` (`layers.N.experts`), their matrices as the format holds them."""
        if scope != self._scope:
            self._source.release()
            layer = int(scope.split(".")[1])
            experts = (self._source.expert(layer, expert) for expert in range(self._source.config.num_experts))
            self._scope, self._values = scope, [self._converted(weights) for weights in experts]
        experts_of_layer = self._values
        assert isinstance(experts_of_layer, list)
        return experts_of_layer

    def _converted(self, weights: ExpertWeights) -> ExpertWeights:
        mlp1, mlp2 = self._matrix(weights.mlp1), self._matrix(weights.mlp2)
        return ExpertWeights(mlp1, weights.mlp1_bias, mlp2, weights.mlp2_bias)

    def _matrix(self, matrix: ExpertMatrix) -> ExpertMatrix:
        """Return `matrix` as the format holds it."""
        matrix = matrix.unpacked() if isinstance(matrix, Mxfp4Weight) else matrix
        if self._format.are_experts_packed:
            return matrix if isinstance(matrix, Mxfp4Tensor) else quantize(matrix)
        dense = dequantize(matrix, torch.bfloat16) if isinstance(matrix, Mxfp4Tensor) else matrix
        return dense.t().contiguous() if self._format.are_experts_transposed else dense


def _stored_field(weights: ExpertWeights, field: str) -> Tensor:
    """Return what a file holds of one expert under `field`: mlp1_blocks, mlp1_scales, mlp1_weight or mlp1_bias."""
    matrix, _, kind = field.partition("_")
    if kind == "bias":
        return getattr(weights, field)
    value: ExpertMatrix = getattr(weights, matrix)
    if isinstance(value, Mxfp4Tensor):
        return getattr(value, kind)
    assert isinstance(value, Tensor), "a matrix was not converted"
    return value
