"""This engine as one of the programs that are measured side by side."""

from cluster.bench.engine import EngineBench, EngineWork
from cluster.bench.peers.talk import LoadOrder, serve
from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.model_source import open_model
from cluster.standalone import StandaloneSections
from model.fingerprint import kernel_build
from model.kernels.threads import use_threads
from model.load import no_report


class Expertmesh:
    """A loaded model with its engine, as `serve` runs it."""

    def __init__(self, order: LoadOrder) -> None:
        """Load `order.path`; the options are fields of the numerics section."""
        use_threads(order.num_threads)
        sections = StandaloneSections(
            ModelSection(max_context_tokens=order.context_tokens),
            NumericsSection.model_validate(order.options),
            EngineSection(max_running_sequences=order.max_sequences),
            AttentionSection(num_threads=order.num_threads),
        )
        work = EngineWork(
            "", num_steps=order.num_steps, num_prompt=order.num_prompt, temperature=0.0, sections=sections
        )
        self._bench = EngineBench(open_model(order.path), work, no_report)
        self._bench.__enter__()
        self.version = f"kernels {kernel_build('cpu')}"

    def decode(self, num_sequences: int) -> list[float]:
        """Return the seconds of each timed step of `num_sequences` sequences."""
        return self._bench.decode(num_sequences)

    def prefill(self, num_tokens: int) -> float:
        """Return the seconds from a prompt to its first token."""
        return self._bench.prefill(num_tokens)


if __name__ == "__main__":
    serve(Expertmesh)
