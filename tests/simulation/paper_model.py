"""A model with experts whose tokens can be worked out on paper, one layer of experts at a time.

It is the hand model of the engine's tests (it reads its past back through the block tables) plus layers of experts
whose outputs, summed in the order of the gate, decide with their last bit on the next token: a wrong pair, a stale
output or another order of adding changes it.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cluster.engine.model_runner import build_batch
from cluster.engine.sequence import FinishReason, SequenceRequest
from cluster.engine.step import StepPlan, StepResult
from cluster.grammar.guide import TurnGuide
from model.batch import ForwardBatch
from model.kv_cache import KVCache
from model.moe import GateOutput, HandExperts, combine
from model.sampler import SampleRow, sample
from model.tokenizer import Tokenizer
from tests.cluster.engine.driver import EOS
from tests.cluster.engine.hand_transformer import STEP, VOCAB_SIZE, HandTransformer, hand_target
from tests.cluster.experts.hand import frame_format

NUM_LAYERS = 2
NUM_EXPERTS = 8
NUM_CHOSEN = 4
HIDDEN = 2
WIRE = frame_format(NUM_LAYERS, NUM_EXPERTS, HIDDEN)
_WEIGHTS = torch.tensor([0.43, 0.29, 0.17, 0.11])
_NONE = HandExperts()
_TOKENIZER = Tokenizer()


@dataclass(frozen=True, slots=True)
class LayerInput:
    """What one layer's experts are asked."""

    layer: int
    hidden: Tensor
    """[T, H] f32."""
    gate: GateOutput


StepPass = Generator[LayerInput, Tensor, StepResult]
"""A step under way: it yields a layer's input, is sent the experts' outputs [T, K, H], and returns the result."""


def step_pass(plan: StepPlan, kv_cache: KVCache) -> StepPass:
    """Run a step as the attention side does, layer by layer."""
    batch = build_batch(plan)
    base = HandTransformer().forward(batch, kv_cache, _NONE)
    token_ids, positions = torch.from_numpy(batch.token_ids), torch.from_numpy(batch.positions)
    hidden = first_hidden(token_ids, positions)
    for layer in range(NUM_LAYERS):
        gate = paper_gate(layer, token_ids, positions)
        outputs = yield LayerInput(layer, hidden, gate)
        hidden = next_hidden(outputs, gate)
    return StepResult(tuple(sample(_shifted(base, hidden, batch), plan.sample_rows)))


def first_hidden(token_ids: Tensor, positions: Tensor) -> Tensor:
    """Return [T, H]: what the first layer's experts see."""
    return torch.stack([token_ids + 1, positions + 1], dim=1).float()


def paper_gate(layer: int, token_ids: Tensor, positions: Tensor) -> GateOutput:
    """Return four distinct experts for each token, in an order that is not theirs."""
    start, stride = token_ids * 7 + positions * 3 + layer * 5, 1 + 2 * ((token_ids + layer) % 3)
    places = torch.arange(NUM_CHOSEN)
    expert_ids = (start[:, None] + stride[:, None] * places) % NUM_EXPERTS
    return GateOutput(expert_ids, _WEIGHTS.expand(len(token_ids), -1))


def next_hidden(outputs: Tensor, gate: GateOutput) -> Tensor:
    """Return [T, H] after a layer."""
    return combine(outputs, gate.weights) / 4


def tokens_on_paper(
    one: SequenceRequest, max_context: int, guide: TurnGuide | None = None
) -> tuple[list[int], FinishReason]:
    """Return a request's output as model and sampler give it alone, one token after the other, and why it ends."""
    params, token_ids, num_prompt = one.params, list(one.prompt_ids), len(one.prompt_ids)
    stop_ids = () if params.ignore_eos else (EOS,)
    text = ""
    for count in range(1, min(params.max_tokens, max_context - num_prompt) + 1):
        logits = _logits((hand_target(token_ids) + _shift_on_paper(token_ids)) % VOCAB_SIZE)
        blocked = stop_ids if count <= params.min_tokens else ()
        token_id = sample(logits[None], [SampleRow(params, token_ids, num_prompt, blocked, guide=guide)])[0].token_id
        assert token_id is not None
        token_ids.append(token_id)
        if guide is not None:
            guide.advance(token_id)
        # Stop strings are looked for from token `min_tokens` on.
        text += _TOKENIZER.decode([token_id]) if count >= params.min_tokens else ""
        is_over = guide is not None and guide.is_over
        if token_id in stop_ids or is_over or any(stop in text for stop in params.stop):
            return token_ids[num_prompt:], FinishReason.STOP
    return token_ids[num_prompt:], FinishReason.LENGTH


def _shift_on_paper(token_ids: list[int]) -> int:
    """Return the shift of the last token, its experts' outputs added one by one in the order of the gate."""
    last, position = torch.tensor(token_ids[-1:]), torch.tensor([len(token_ids) - 1])
    hidden = first_hidden(last, position)[0].numpy()
    for layer in range(NUM_LAYERS):
        gate = paper_gate(layer, last, position)
        pairs = zip(gate.expert_ids[0].tolist(), gate.weights[0].numpy(), strict=True)
        parts = [hidden * np.float32(expert + 1) * weight for expert, weight in pairs]
        hidden = (((parts[0] + parts[1]) + parts[2]) + parts[3]) / np.float32(4)
    return int(_shift(torch.from_numpy(hidden)[None])[0])


def _shift(hidden: Tensor) -> np.ndarray:
    """Return [T]: by how much the experts move the best token, from every bit of their sums."""
    bits = hidden.contiguous().view(torch.int32).numpy().astype(np.int64)
    return (bits[:, 0] * 31 + bits[:, 1]) % VOCAB_SIZE


def _shifted(base: Tensor, hidden: Tensor, batch: ForwardBatch) -> Tensor:
    """Return the hand model's logits [R, V] with each row turned by its experts' shift."""
    shifts = _shift(hidden)[batch.logit_rows].tolist()
    rows = [_logits((int(row.argmax()) + shift) % VOCAB_SIZE) for row, shift in zip(base, shifts, strict=True)]
    return torch.stack(rows) if rows else base


def _logits(target: int) -> Tensor:
    return -STEP * ((torch.arange(VOCAB_SIZE) - target) % VOCAB_SIZE).float()
