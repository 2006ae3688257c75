"""Instructor: a pydantic model out of an answer, in each of its modes for this API, whole and in parts."""

import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is 17 + 25?"}],
    "temperature": 0.0,
    "seed": 1,
    "max_retries": 0,
}


def run(base_url: str, model: str) -> None:
    """Ask for the same model in every mode."""
    import instructor  # pyright: ignore[reportMissingImports]
    from openai import OpenAI
    from pydantic import create_model

    library: Any = instructor
    kind: Any = create_model("Sum", __doc__="A sum.", answer=(int, ...))
    plain = OpenAI(base_url=base_url, api_key="none", max_retries=0)
    modes = library.Mode
    for mode in (modes.TOOLS, modes.TOOLS_STRICT, modes.JSON, modes.JSON_SCHEMA):
        client = library.from_openai(plain, mode=mode)
        limit = "max_output_tokens" if mode is modes.RESPONSES_TOOLS else "max_tokens"
        asked = {key: value for key, value in ASKED.items() if mode is not modes.RESPONSES_TOOLS or key != "seed"}
        said = client.chat.completions.create(model=model, response_model=kind, **asked, **{limit: 200})
        assert isinstance(said, kind), (mode, said)
        _log.info("%s: %r", mode.value, said)
    client = library.from_openai(plain, mode=modes.JSON_SCHEMA)
    parts = list(client.chat.completions.create_partial(model=model, response_model=kind, **ASKED, max_tokens=200))
    whole = client.chat.completions.create(model=model, response_model=kind, **ASKED, max_tokens=200)
    assert parts[-1].model_dump() == whole.model_dump(), parts
    _log.info("partial: %d parts", len(parts))


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[1] + "/v1", sys.argv[2])
