"""The handshake's values: what differs is named; digests tell models apart; secrets compare."""

from cluster.experts.handshake import Agreement, is_secret, model_digest
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import ExpertWeights
from model.mxfp4 import Mxfp4Tensor
from tests.support.random_model import random_config


class TouchedWeights(RandomWeights):
    """Weights with one block of one expert's down projection changed, as a fine-tune of experts alone would."""

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return an expert; all of layer 1 are touched."""
        weights = super().expert(layer, expert)
        if layer == 1:
            assert isinstance(weights.mlp2, Mxfp4Tensor)
            weights.mlp2.blocks[0, 0] ^= 1
        return weights


def test_what_differs_is_named_with_both_values() -> None:
    ours, theirs = Agreement("m1", "f1", 1), Agreement("m1", "f2", 3)
    assert ours.difference(ours) is None
    assert ours.difference(theirs) == "fingerprint 'f1' is not 'f2'; protocol 1 is not 3"


def test_a_digest_tells_weights_and_dimensions_apart() -> None:
    config = random_config(num_layers=2, num_experts=6)
    digest = model_digest(RandomWeights(config, seed=1))
    assert digest == model_digest(RandomWeights(config, seed=1))
    assert digest != model_digest(RandomWeights(config, seed=2))
    assert digest != model_digest(TouchedWeights(config, seed=1))
    assert digest != model_digest(RandomWeights(random_config(num_layers=3, num_experts=6), seed=1))


def test_only_the_secret_itself_is_the_secret() -> None:
    assert is_secret("geheim ü".encode(), "geheim ü")
    assert is_secret("x", "x")
    for given in (None, b"", b"geheim", "geheim  ", b"geheim \0"):
        assert not is_secret(given, "geheim ")
