"""Replay: what was told of a response before its edge died, held against what a new run of it says.

Prompt, parameters and seed give the same tokens, and the same tokens the same events: so the new run counts its events
from the first one on, and those that were told already are passed over. Where it says something else, it does not go
on.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

from router.api.responses_answers import Item, ResponseAnswer, Status
from router.api.responses_events import Event, failure_answer
from router.errors import RequestError, Unavailable

_SAID = ("type", "delta", "text", "arguments")
"""What two runs must have in common; the rest follows from it, or is sealed and differs each time."""


class NotRepeated(Unavailable):
    """A new run of a response says something else than was told of it."""


class Replay:
    """Follows a new run of a response until it has said all that was told before."""

    def __init__(self, told: Sequence[bytes] = ()) -> None:
        """Expect these events, each one line of JSON."""
        self._told = told
        self._num_repeated = 0

    @property
    def is_over(self) -> bool:
        """Return whether all that was told was said again."""
        return self._num_repeated == len(self._told)

    def has_told(self, event: Event, response: ResponseAnswer) -> bool:
        """Return whether an event was told before; then what `response` says of an item is what was told of it.

        Raises NotRepeated if something else was told.
        """
        number: int = event["sequence_number"]
        if number >= len(self._told):
            return False
        told: Event = json.loads(self._told[number])
        if any(told.get(key) != event.get(key) for key in _SAID):
            message = "The server that ran this response stopped, and another one could not repeat what it had said."
            raise NotRepeated(message)
        if event["type"] == "response.output_item.done":
            response["output"][event["output_index"]] = cast(Item, told["item"])
        self._num_repeated = number + 1
        return True


def ended_as_told(
    response: ResponseAnswer, told: Sequence[bytes], status: Status, error: RequestError | None = None
) -> Event:
    """Return the last event of a response that is given up: its output is what was told as finished."""
    events: list[dict[str, Any]] = [json.loads(line) for line in told]
    response["output"] = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    response["status"] = status
    response["error"] = None if error is None else failure_answer(error)
    kind = "incomplete" if status == "cancelled" else status
    return {"type": f"response.{kind}", "sequence_number": len(events), "response": dict(response)}
