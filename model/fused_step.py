"""All layers of a step in one native call, with the bits of the same kernels called one by one.

Only where the experts of every layer live in this process and are packed: then nothing has to wait between two layers.
`Transformer.forward` does the same layer by layer everywhere else.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.attention import StepTensors
from model.expert_shard import ExpertShard
from model.fused_layer import FusedLayer
from model.kernels.constants import constants
from model.kernels.native_library import required_library
from model.kernels.threads import num_threads
from model.kv_cache import KVCache
from model.moe import Experts


def run_layers(
    layers: Sequence[FusedLayer | None], x: Tensor, step: StepTensors, kv_cache: KVCache, experts: Experts
) -> Tensor | None:
    """Return what the last layer gives [T, H] f32 for embedded rows x [T, H], or None where one call can't do it.

    Raises KeyError with the first (layer, expert) that is chosen and not here.
    """
    tables = experts.packed_tables() if isinstance(experts, ExpertShard) else None
    fused = [layer for layer in layers if layer is not None]
    if tables is None or len(fused) < len(layers):
        return None
    config, numerics = fused[0].config, fused[0].numerics
    assert numerics.expert_input == torch.bfloat16, f"packed experts read bf16, not {numerics.expert_input}"
    pointers = [
        (*layer.addresses(step, kv_cache, number), table.addresses.data_ptr())
        for number, (layer, table) in enumerate(zip(fused, tables, strict=True))
    ]
    x = x.clone(memory_format=torch.contiguous_format)
    sizes = len(layers), len(x), config.hidden_size, config.intermediate_size, config.num_experts
    missing = required_library().call(
        "em_layers",
        *(torch.tensor(pointers), torch.tensor((*sizes, config.experts_per_token))),
        *(constants(config.swiglu_limit, config.swiglu_alpha), int(numerics.has_int8_experts), x),
        threads=num_threads(),
    )
    if missing >= 0:
        raise KeyError(divmod(missing, config.num_experts))
    return x
