"""What moves single logits before sampling: biases, blocked ids, penalties for what was seen.

Each touched logit is a function of its own value and its own row's parameters, computed in f32.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.sampling_params import SamplingParams
from model.token_counts import Floats, Ints, TokenCounts


def add_bias(logits: Tensor, rows: Sequence[tuple[int, SamplingParams]]) -> None:
    """Add each row's `logit_bias` to logits [R, V] in place; `rows` pairs row indices with their parameters."""
    entries = [(row, token_id, bias) for row, params in rows for token_id, bias in params.logit_bias]
    if not entries:
        return
    row_ids, token_ids, biases = zip(*entries, strict=True)
    index = _index(np.array(row_ids), np.array(token_ids), logits.device)
    logits[index] += torch.tensor(biases, dtype=torch.float32, device=logits.device)


def block(logits: Tensor, row: int, token_ids: Sequence[int]) -> None:
    """Make `token_ids` of a row impossible, in place; ids beyond the vocabulary are so already."""
    inside = [token_id for token_id in token_ids if token_id < logits.shape[1]]
    logits[row, torch.tensor(inside, dtype=torch.int64, device=logits.device)] = float("-inf")


def counts_of(params: SamplingParams, token_ids: Sequence[int], num_prompt: int) -> TokenCounts:
    """Return what `params` penalize: the output's tokens, and with a repetition penalty the prompt's as well."""
    prompt_ids = token_ids[:num_prompt] if params.repetition_penalty != 1.0 else ()
    return TokenCounts(prompt_ids, token_ids[num_prompt:])


def penalize(logits: Tensor, row: int, params: SamplingParams, ids: Ints, times: Floats) -> None:
    """Apply a row's penalties to logits [R, V] in place, for the tokens `ids` [n] that stand `times` [n] in its output.

    Repetition looks at all of `ids` and divides positive logits, multiplies negative ones (Keskar et al., "CTRL",
    2019); frequency subtracts its penalty for each time a token stands in the output, presence once if it stands
    there at all (OpenAI's API reference).
    """
    index = _index(np.full(ids.size, row), ids, logits.device)
    values = logits[index]
    repetition = torch.tensor(params.repetition_penalty, dtype=torch.float32, device=logits.device)
    values = torch.where(values > 0, values / repetition, values * repetition)
    weight = times * np.float32(params.frequency_penalty) + (times > 0) * np.float32(params.presence_penalty)
    logits[index] = values - torch.from_numpy(weight.astype(np.float32)).to(logits.device)


def _index(rows: Ints, token_ids: Ints, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows).to(device), torch.from_numpy(token_ids).to(device)
