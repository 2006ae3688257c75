"""Flags of `expertmesh serve` that are fields of the config document, as one table.

A flag says `a.b=value` in other words. Those marked so are vLLM's names, taken where the meaning is the same.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True, slots=True)
class Flag:
    """An option `--name VALUE` and the fields that it sets."""

    name: str
    kind: Any
    fields: tuple[str, ...]
    help: str
    metavar: str
    default: str
    """What holds where neither the flag nor the config says it, in words."""

    @property
    def parameter(self) -> str:
        """Return the flag's name as Python spells it."""
        return self.name.replace("-", "_")

    def overrides(self, value: object) -> list[str]:
        """Return the overrides that a given value means."""
        return [f"{field}={json.dumps(value)}" for field in self.fields]


FLAGS = (
    Flag(
        "model",
        str,
        ("model.path",),
        "A directory, a GGUF file, `tiny`, or a fetched model such as openai/gpt-oss-20b.",
        "MODEL",
        "tiny",
    ),
    Flag("served-model-name", str, ("model.served_name",), "Name of the model in the API.", "NAME", "the model's own"),
    Flag(
        "host",
        str,
        ("edge.http.host", "edge.grpc.host"),
        "Address to listen on; beyond this machine a key is required.",
        "ADDRESS",
        "127.0.0.1",
    ),
    Flag("port", int, ("edge.http.port",), "HTTP port; 0 lets the system choose.", "PORT", "8000"),
    Flag("grpc-port", int, ("edge.grpc.port",), "gRPC port; 0 lets the system choose.", "PORT", "9000"),
    Flag(
        "api-key",
        list[str],
        ("edge.auth.api_keys",),
        "A key that clients must send; may be repeated. EXPERTMESH_API_KEYS=KEY,KEY adds to them and shows in no list "
        "of processes.",
        "KEY",
        "none",
    ),
    Flag(
        "max-model-len",
        int,
        ("model.max_context_tokens",),
        "Longest prompt plus output, in tokens (vLLM's name).",
        "TOKENS",
        "the checkpoint's",
    ),
    Flag(
        "max-num-seqs",
        int,
        ("engine.max_running_sequences",),
        "Sequences computed at the same time (vLLM's name).",
        "NUMBER",
        "64",
    ),
    Flag(
        "max-num-batched-tokens",
        int,
        ("engine.max_step_tokens",),
        "Token budget of one step (vLLM's name).",
        "TOKENS",
        "512",
    ),
    Flag("block-size", int, ("engine.block_tokens",), "Tokens in one KV block (vLLM's name).", "TOKENS", "16"),
    Flag(
        "kv-cache-memory-bytes",
        int,
        ("engine.kv_cache_bytes",),
        "Memory for keys and values (vLLM's name).",
        "BYTES",
        "a share of what is free",
    ),
    Flag(
        "max-logprobs",
        int,
        ("edge.limits.max_logprobs",),
        "Largest `top_logprobs` of a request (vLLM's name).",
        "NUMBER",
        "20",
    ),
)


def overrides_of(values: dict[str, Any]) -> list[str]:
    """Return the overrides of the flags that were given, by parameter name; None and [] are not given."""
    given = ((flag, values.get(flag.parameter)) for flag in FLAGS)
    return [override for flag, value in given if value not in (None, []) for override in flag.overrides(value)]


def with_config_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that has the flags of the table as well as its own options.

    What they say comes before the command's `settings` (`--set`), which therefore win.
    """
    own = list(inspect.signature(command).parameters.values())
    parameters = [*own, *(_parameter(flag) for flag in FLAGS)]

    def run(**values: Any) -> None:
        arguments = {parameter.name: values[parameter.name] for parameter in own}
        arguments["settings"] = [*overrides_of(values), *(arguments["settings"] or [])]
        command(**arguments)

    run.__name__, run.__doc__ = command.__name__.strip("_"), command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # This is where typer reads the options from.
    vars(run)["__signature__"] = inspect.Signature(parameters)
    return run


def _parameter(flag: Flag) -> inspect.Parameter:
    option = typer.Option(f"--{flag.name}", help=flag.help, metavar=flag.metavar, show_default=flag.default)
    annotation = Annotated[flag.kind | None, option]
    return inspect.Parameter(flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
