"""The cluster's config sections: frozen, strict, composed; each component takes its own section.

`router.config` composes them into the one document that is read once.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of the config document: immutable, strict, and refusing unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


PositiveInt = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
LAST_PORT = 65535


class ModelSection(Section):
    """Which checkpoint is served, and under which name."""

    path: str = Field(default="tiny", description="A checkpoint directory, or `tiny` for the embedded model")
    served_name: str | None = Field(default=None, description="Name in the API; by default the checkpoint's own name")
    max_context_tokens: PositiveInt | None = Field(
        default=None, description="Longest prompt plus output in tokens; by default the checkpoint's maximum"
    )
    keep_packed_experts: bool = Field(
        default=True,
        description="Keep experts on disk in the CPU kernels' layout too, so that the next start maps them",
    )


class NumericsSection(Section):
    """What is computed in which precision; part of the numerics fingerprint."""

    mode: Literal["float32", "precise", "int8", "bf16"] = Field(
        default="precise",
        description="Row of the dtype table; int8: as precise, but experts' inputs rounded to 8 bits, for speed",
    )
    dense_weights: Literal["float32", "bfloat16", "q8_0"] = Field(
        default="bfloat16",
        description="How dense weights lie in memory; float32 is faster and twice as large. q8_0: projections and head "
        "in 8-bit blocks, half as large and faster still on CPUs, and lossy unless the file has them so",
    )
    kv_cache_dtype: Literal["auto", "int8"] = Field(
        default="auto",
        description="Keys and values as the mode has them, or in 8 bits with a scale a token and head: about half the "
        "memory, and lossy",
    )
    dequantized_experts_bytes: Annotated[int, Field(ge=0)] = Field(
        default=1_000_000_000, description="Bytes of expert weights kept dequantised on each shard, for speed"
    )

    @model_validator(mode="after")
    def _check_dense(self) -> "NumericsSection":
        if self.mode == "float32" and self.dense_weights == "q8_0":
            raise ValueError("dense_weights is q8_0, but mode float32 rounds nothing; choose precise, int8 or bf16")
        return self


class SpeculationSection(Section):
    """Prompt lookup: tokens guessed from the sequence's own text and verified together; it changes speed alone."""

    max_draft_tokens: Annotated[int, Field(ge=0, le=32)] = Field(
        default=0, description="Most tokens guessed ahead of one sequence in a step; 0 switches it off"
    )
    ngram_tokens: Annotated[int, Field(ge=1, le=16)] = Field(
        default=3, description="So many last tokens must have stood in the text before"
    )
    row_cost_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.5, description="Share of a one-row step's time that another row adds; guesses must be worth it"
    )


class GrammarsSection(Section):
    """Limits of the grammars that hold answers to a form."""

    max_schema_chars: PositiveInt = Field(default=65_536, description="Longest JSON schema that is enforced")
    max_grammar_chars: PositiveInt = Field(default=16_384, description="Longest regular expression or Lark grammar")
    max_schema_depth: PositiveInt = Field(default=64, description="Deepest nesting of a JSON schema")
    compile_timeout_s: PositiveSeconds = Field(default=10.0, description="Longest time until a grammar is compiled")
    max_cached_grammars: PositiveInt = Field(default=128, description="Compiled grammars kept for the next requests")
    num_threads: PositiveInt = Field(default=2, description="Threads that compile beside the engine's")


class EngineSection(Section):
    """Limits of one engine: batch, KV cache, queue."""

    block_tokens: PositiveInt = Field(default=16, description="Tokens in one KV block")
    kv_cache_bytes: PositiveInt | None = Field(
        default=None, description="Bytes for keys and values; by default `kv_cache_fraction` of what is free"
    )
    kv_cache_fraction: Annotated[float, Field(gt=0, le=0.95)] = Field(
        default=0.3, description="Fraction of free device memory for keys and values, if no byte count is given"
    )
    max_step_tokens: PositiveInt = Field(default=512, description="Token budget of one step, prefill and decode")
    max_running_sequences: PositiveInt = Field(default=64, description="Sequences computed at the same time")
    max_waiting_sequences: PositiveInt = Field(default=1024, description="Bounded inbox; beyond it, QueueFull")
    prefix_cache: bool = Field(
        default=True, description="Keep computed beginnings of sequences, for others of the same client that begin so"
    )
    speculation: SpeculationSection = Field(
        default_factory=SpeculationSection, description="Guessing ahead from the sequence's own text"
    )
    grammars: GrammarsSection = Field(
        default_factory=GrammarsSection, description="Structured output: JSON schemas, regular expressions, grammars"
    )
    logit_digests: bool = Field(default=False, description="Return a digest of each sampled step's logits, for tests")


class WorkerScalingSection(Section):
    """Adding and removing expert workers by how many sequences run and wait."""

    min_workers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Fewest workers; 0: without any sequence, all experts come beside attention (collapse)"
    )
    max_workers: PositiveInt = Field(default=8, description="Most workers")
    target_sequences: Annotated[float, Field(gt=0)] = Field(
        default=16.0, description="Sequences, of all attention replicas, that one worker should serve"
    )
    upscale_delay_s: PositiveSeconds = Field(default=3.0, description="Load must last this long before workers join")
    downscale_delay_s: PositiveSeconds = Field(default=60.0, description="Calm must last this long before they leave")


class ExpertsSection(Section):
    """Where the experts live."""

    num_workers: Annotated[int, Field(ge=0)] = Field(
        default=4, description="Expert workers; 0 keeps all experts beside attention (collapsed)"
    )
    scaling: WorkerScalingSection | None = Field(
        default=None, description="Workers that come and go by the load; without it, only by `expertmesh scale`"
    )
    copies: PositiveInt = Field(default=2, description="Copies of each expert, at most one on a worker")
    num_spare_slots: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Further experts of each layer on each worker: more copies of those that are busy"
    )
    max_moves_per_round: Annotated[int, Field(ge=0)] = Field(
        default=16, description="Experts that workers load in a round to follow the traffic; 0: none is ever moved"
    )
    max_rescued_experts: Annotated[int, Field(ge=0)] = Field(
        default=256,
        description="Experts that a worker loads in place of lost workers, whose last copies went with them; 0: none",
    )
    rebalance_interval_s: PositiveSeconds = Field(default=10.0, description="Time between two such rounds")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Device of a worker")
    num_threads: PositiveInt = Field(default=1, description="Compute threads of a worker on a CPU")
    worker_resources: dict[str, float] = Field(
        default_factory=dict, description="Ray resources that a worker claims, e.g. {expert: 1} or {GPU: 1}"
    )
    port_range: list[int] = Field(
        default_factory=lambda: [0, 0],
        description="First and last port of the expert servers; [0, 0] lets the system choose",
        min_length=2,
        max_length=2,
    )
    reply_timeout_s: PositiveSeconds = Field(
        default=30.0, description="Longest wait for a worker's reply to one send; then another copy is asked too"
    )
    min_hedge_s: PositiveSeconds = Field(
        default=0.1, description="Shortest wait for a worker's reply before another copy is asked too"
    )
    max_reply_ratio: Annotated[float, Field(ge=1)] = Field(
        default=5.0, description="Between the two, another copy is asked after so many times the usual wait"
    )
    hedge_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1, description="Share of all sends that may be repeated to another copy because they are late"
    )
    layer_timeout_s: PositiveSeconds = Field(
        default=600.0, description="Last resort: longest wait for all outputs of a layer; then its step fails"
    )
    fallback_bytes: Annotated[int, Field(ge=0)] = Field(
        default=1_000_000_000,
        description="Bytes for experts that the attention side computes while no worker can; 0: it waits for a worker",
    )
    connect_timeout_s: PositiveSeconds = Field(default=20.0, description="Longest wait for a worker's handshake")

    @model_validator(mode="after")
    def _check_scaling(self) -> "ExpertsSection":
        scaling = self.scaling
        if scaling is not None and scaling.max_workers < max(self.copies, scaling.min_workers):
            raise ValueError(
                f"scaling.max_workers is {scaling.max_workers}; it must be at least copies, which is {self.copies}, "
                f"and scaling.min_workers, which is {scaling.min_workers}"
            )
        return self

    @model_validator(mode="after")
    def _check_places(self) -> "ExpertsSection":
        if 0 < self.num_workers < self.copies:
            raise ValueError(
                f"copies is {self.copies}, each on a worker of its own, but num_workers is {self.num_workers}: "
                "take fewer copies or more workers"
            )
        first, last = self.port_range
        if not 0 <= first <= last <= LAST_PORT:
            raise ValueError(f"port_range is {self.port_range}; wanted are a first and a last port up to {LAST_PORT}")
        return self

    @model_validator(mode="after")
    def _check_timeouts(self) -> "ExpertsSection":
        if self.layer_timeout_s <= self.reply_timeout_s:
            raise ValueError(
                f"layer_timeout_s is {self.layer_timeout_s:g}; it must be more than reply_timeout_s, which is "
                f"{self.reply_timeout_s:g}, or no other copy would ever be asked"
            )
        return self


class AttentionSection(Section):
    """The attention replicas: a Ray Serve deployment."""

    min_replicas: PositiveInt = Field(default=1, description="Fewest attention replicas")
    max_replicas: PositiveInt = Field(default=1, description="Most attention replicas")
    target_sequences: Annotated[float, Field(gt=0)] = Field(
        default=16.0, description="Sequences a replica should run; more scale the deployment up"
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Device of a replica")
    num_threads: PositiveInt = Field(default=1, description="Compute threads of a replica on a CPU")
    replica_resources: dict[str, float] = Field(
        default_factory=lambda: {"attention": 0.001},
        description="Ray resources that a replica claims; `attention` pins it to the nodes that have it",
    )
    upscale_delay_s: PositiveSeconds = Field(default=3.0, description="Load must last this long before scaling up")
    downscale_delay_s: PositiveSeconds = Field(default=60.0, description="Calm must last this long before scaling down")
    drain_timeout_s: PositiveSeconds = Field(default=120.0, description="Grace for running sequences at scale-down")
    heartbeat_timeout_s: PositiveSeconds = Field(
        default=10.0, description="An edge silent for so long has its sequences cancelled, and the other way round"
    )
    max_resumes: PositiveInt = Field(
        default=3, description="Replicas a sequence may lose in a row without one new token before it fails"
    )
    max_resume_wait_s: PositiveSeconds = Field(
        default=120.0, description="Seconds a sequence waits for a replica after a loss before it fails"
    )
    max_concurrent_resumes: PositiveInt = Field(
        default=8, description="Resumed sequences of an edge that may wait for their first token at once"
    )

    @model_validator(mode="after")
    def _check_replicas(self) -> "AttentionSection":
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}, more than max_replicas, which is {self.max_replicas}"
            )
        return self
