"""GrammarLimits: how large a grammar may be, and how long it may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """Limits of an engine's grammars; what passes one is refused with its name."""

    max_schema_chars: int = 65_536
    max_grammar_chars: int = 16_384
    """Of a regular expression or a Lark grammar, whose time to compile can grow with the square of its length."""
    max_schema_depth: int = 64
    compile_timeout_s: float = 10.0
    """From admission until the sequence may run."""
    max_cached_grammars: int = 128
    num_threads: int = 2
    """For the grammars of clients; one more is there for what needs none."""
