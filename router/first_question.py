"""FirstQuestion: asks a server that has just started, from its own process but over HTTP as any client would.

It prints reasoning and answer as they come, then what a newcomer may type next. A failure is one line; the server goes
on serving.
"""

import json
import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from router.auth import read_keys
from router.cli_chat import print_answer
from router.cli_client import ServerClient
from router.cli_options import DEFAULT_URL, KEY_VARIABLE
from router.config import Config
from router.errors import RouterError

ROOT = Path(__file__).resolve().parent.parent
_LIKELIEST = {"temperature": 0}
"""A demonstration shows what the model thinks likeliest, not a draw."""


class FirstQuestion:
    """One question, asked in a thread of its own, so that whoever serves is not kept waiting."""

    def __init__(self, console: Console, config: Config, question: str) -> None:
        """Ask the server that runs with `config`."""
        self._console = console
        self._question = question
        self._url = local_url(config)
        keys = read_keys(config.edge.auth)
        self._key = keys[0] if keys else None
        self._thread = threading.Thread(target=self._run, name="first-question", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the answer."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            with ServerClient(self._url, self._key) as client:
                model = client.model_name()
                self._console.print(f"\n> {self._question}", style="bold", markup=False)
                messages = [{"role": "user", "content": self._question}]
                print_answer(self._console, client.chat(model, messages, _LIKELIEST))
        except RouterError as error:
            self._console.print(f"the question was not answered: {error}", style="red", markup=False, soft_wrap=True)
            return
        for line in next_steps(self._url, model, self._question, has_key=self._key is not None):
            self._console.print(line, markup=False, soft_wrap=True)


def local_url(config: Config) -> str:
    """Return the address under which this machine reaches the HTTP server."""
    http = config.edge.http
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host, http.host).strip("[]")
    return f"http://[{host}]:{http.port}" if ":" in host else f"http://{host}:{http.port}"


def next_steps(url: str, model: str, question: str, *, has_key: bool) -> Iterator[str]:
    """Yield lines that say what to type next, each command ready to be copied."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}]})
    key_header = f' -H "authorization: Bearer ${KEY_VARIABLE}"' if has_key else ""
    key = f"os.environ['{KEY_VARIABLE}']" if has_key else "'none'"
    arguments = "" if url == DEFAULT_URL else f" --url {url}"
    yield "\nNext, in another terminal:"
    yield f"  curl {url}/v1/chat/completions -H 'content-type: application/json'{key_header} -d {shlex.quote(body)}"
    yield f"  {command_name()} chat{arguments}"
    yield "or in Python, with OpenAI's client (pip install openai):"
    yield f"  {'import os; ' if has_key else ''}from openai import OpenAI"
    yield f"  client = OpenAI(base_url={f'{url}/v1'!r}, api_key={key})"
    yield f"  messages = [{{'role': 'user', 'content': {question!r}}}]"
    yield f"  print(client.chat.completions.create(model={model!r}, messages=messages).choices[0].message.content)"
    if (ROOT / "run").is_file():
        yield "and to run the tests, in the checkout:"
        yield "  ./run tests"


def command_name() -> str:
    """Return how this program was called, as a command that can be typed again."""
    called = Path(sys.argv[0])
    if called.name != "expertmesh":
        return f"{shlex.quote(sys.executable)} -m router.cli"
    place = called.absolute()
    return shlex.quote(str(place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place))
