"""Which of the assistant's earlier reasoning the model sees again.

The rule of OpenAI's cookbook (articles/gpt-oss/handle-raw-cot): analysis before the last final answer is dropped;
after it, while the model is still calling tools, it stays. Python calls and results are written on the analysis
channel and go with it.

    user A1 F1 user A2 F2 user          → user F1 user F2 user
    user A1 F1 user A2 call result      → user F1 user A2 call result
"""

from collections.abc import Sequence
from dataclasses import replace

from router.harmony.conversation import AssistantTurn, ToolTurn, Turn


def visible_turns(turns: Sequence[Turn], python_name: str | None) -> list[Turn]:
    """Return `turns` as the model may see them; `python_name` names the built-in python tool, if it is in use."""
    last_final = max((place for place, turn in enumerate(turns) if _is_final(turn)), default=-1)
    settled = [_without_analysis(turn, python_name) for turn in turns[: last_final + 1]]
    return [turn for turn in settled if turn is not None] + list(turns[last_final + 1 :])


def _is_final(turn: Turn) -> bool:
    return isinstance(turn, AssistantTurn) and turn.text != "" and not turn.calls and not turn.is_preamble


def _without_analysis(turn: Turn, python_name: str | None) -> Turn | None:
    if isinstance(turn, ToolTurn):
        return None if turn.name == python_name else turn
    if not isinstance(turn, AssistantTurn):
        return turn
    calls = tuple(call for call in turn.calls if call.name != python_name)
    return replace(turn, reasoning="", calls=calls) if turn.text or calls else None
