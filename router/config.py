"""The one config document: YAML read once, composed of sections, checked before anything starts."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection, Section
from router.config_fields import section_advice, unknown_field
from router.errors import ConfigInvalid

Port = Annotated[int, Field(ge=0, le=65535)]


class HttpSection(Section):
    """The OpenAI-compatible HTTP server."""

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: Port = Field(default=8000, description="Port to listen on; 0 lets the system choose")
    max_body_bytes: Annotated[int, Field(gt=0)] = Field(default=16_000_000, description="Largest request body in bytes")
    keep_alive_s: Annotated[float, Field(gt=0)] = Field(
        default=15.0, description="Seconds of silence in a stream before an SSE comment is sent"
    )
    stalled_client_s: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="Seconds a client may take to send its body, or to read a piece of its stream"
    )
    max_header_bytes: Annotated[int, Field(gt=0)] = Field(
        default=32_768, description="Largest headers of a request in bytes, all together"
    )
    responses_dialect: Literal["openai", "openresponses"] = Field(
        default="openai", description="How a response's stream names its events of reasoning text"
    )


class GrpcSection(Section):
    """The public gRPC server."""

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: Port = Field(default=9000, description="Port to listen on; 0 lets the system choose")
    max_message_bytes: Annotated[int, Field(gt=0)] = Field(default=16_000_000, description="Largest message in bytes")
    stalled_client_s: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="Seconds a client may take to read a message of its stream"
    )


class AuthSection(Section):
    """API keys; without any, the server listens on loopback only."""

    api_keys: list[str] = Field(default_factory=list[str], description="Accepted keys; the environment adds to them")
    api_keys_file: str | None = Field(default=None, description="A file with one key a line")
    operators: list[str] = Field(
        default_factory=list[str],
        description="Keys that may change the number of workers, by the first 8 hex digits of a key's SHA-256; where "
        "no key is asked for, everybody on this machine may",
    )
    key_weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        default_factory=dict,
        description="Shares of keys under load, by the first 8 hex digits of a key's SHA-256; 1 where nothing is said",
    )


class LimitsSection(Section):
    """A limit on everything a request may ask for."""

    max_choices: Annotated[int, Field(gt=0)] = Field(default=16, description="Largest `n`")
    max_logprobs: Annotated[int, Field(ge=0)] = Field(default=20, description="Largest `top_logprobs`")
    max_messages: Annotated[int, Field(gt=0)] = Field(default=2048, description="Most messages in a chat request")
    max_tools: Annotated[int, Field(gt=0)] = Field(default=256, description="Most tools in a request")
    max_stop_strings: Annotated[int, Field(ge=0)] = Field(default=16, description="Most stop strings in a request")
    max_running_requests: Annotated[int, Field(gt=0)] = Field(
        default=512, description="Requests an edge replica holds at once; beyond it, 429"
    )
    request_timeout_s: Annotated[float, Field(gt=0)] = Field(default=3600.0, description="Longest life of a request")
    min_priority: int = Field(
        default=0, description="Lowest `priority` a request may have: lower ones go before all others, whoever asks"
    )


class StoreSection(Section):
    """Stored responses, which clients fetch again or go on from."""

    url: Annotated[str, Field(pattern=r"^(sqlite:///|postgresql://).")] | None = Field(
        default=None,
        description="`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`; by default a SQLite file in the "
        "user's data directory. Several edges need PostgreSQL",
    )
    expiry_days: Annotated[float, Field(gt=0)] = Field(default=30.0, description="Days until a response is gone")
    max_responses: Annotated[int, Field(gt=0)] = Field(
        default=100_000, description="Most responses kept; beyond it those unused for longest go"
    )
    max_bytes: Annotated[int, Field(gt=0)] = Field(
        default=10_000_000_000, description="Most bytes that responses may take; beyond it those unused for longest go"
    )

    @property
    def is_shared(self) -> bool:
        """Return whether several edges can use it."""
        return self.url is not None and self.url.startswith("postgresql://")


class EdgeSection(Section):
    """The edge: HTTP and gRPC in front of the attention replicas."""

    http: HttpSection = Field(default_factory=HttpSection, description="HTTP server")
    grpc: GrpcSection = Field(default_factory=GrpcSection, description="gRPC server")
    auth: AuthSection = Field(default_factory=AuthSection, description="API keys")
    limits: LimitsSection = Field(default_factory=LimitsSection, description="Limits of a request")
    store: StoreSection = Field(default_factory=StoreSection, description="Stored responses")
    num_replicas: Annotated[int, Field(gt=0)] = Field(default=1, description="Edge replicas")
    conversation_date: str | None = Field(
        default=None, description="Date in the system message as YYYY-MM-DD; by default today's at the request"
    )

    @model_validator(mode="after")
    def _check_store(self) -> Self:
        if self.num_replicas > 1 and not self.store.is_shared:
            raise ValueError(
                f"num_replicas is {self.num_replicas}, and several edges cannot share a SQLite file: set store.url to "
                "postgresql://USER:PASSWORD@HOST/NAME, or num_replicas to 1"
            )
        return self


class Config(Section):
    """Everything that is decided before start."""

    form: Literal["cluster", "standalone"] = Field(
        default="cluster", description="`cluster` runs on Ray; `standalone` is one process without Ray"
    )
    model: ModelSection = Field(default_factory=ModelSection, description="The checkpoint")
    numerics: NumericsSection = Field(default_factory=NumericsSection, description="Precision")
    engine: EngineSection = Field(default_factory=EngineSection, description="Limits of an engine")
    experts: ExpertsSection = Field(default_factory=ExpertsSection, description="Where experts live")
    attention: AttentionSection = Field(default_factory=AttentionSection, description="Attention replicas")
    edge: EdgeSection = Field(default_factory=EdgeSection, description="HTTP and gRPC in front")


def load_config(source: str, overrides: Sequence[str] = ()) -> Config:
    """Return the config of a preset name or a YAML file, with `a.b=value` overrides applied.

    Raises ConfigInvalid naming the source, the field and the value.
    """
    document = _read_document(source)
    for override in overrides:
        _apply_override(document, override)
    return parse_config(document, source)


def parse_config(document: dict[str, Any], source: str) -> Config:
    """Return the checked config of a parsed document; `source` names it in errors."""
    try:
        return Config.model_validate_json(json.dumps(document))
    except ValidationError as error:
        problem = error.errors()[0]
        path = [str(part) for part in problem["loc"]]
        advice = {"extra_forbidden": unknown_field, "model_type": section_advice}.get(problem["type"])
        said = advice(Config, path) if advice and path else None
        said = said or f"{'.'.join(path) or 'document'}: {problem['msg'].removeprefix('Value error, ')}"
        raise ConfigInvalid(f"{source}: {said} (value: {shown(problem['input'])})") from error


def shown(value: object) -> str:
    """Return a value as YAML spells it: `null`, `true`, and text in quotes."""
    return json.dumps(value, ensure_ascii=False, default=repr)


def preset_names() -> list[str]:
    """Return the names of the presets that are installed, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _presets().iterdir() if entry.name.endswith(".yaml"))


def _presets() -> Any:
    return resources.files("configs")


def _read_document(source: str) -> dict[str, Any]:
    text = _read_text(source)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"{source}: not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigInvalid(f"{source}: a mapping is wanted, found {type(document).__name__}")
    return document  # pyright: ignore[reportUnknownVariableType]


def _read_text(source: str) -> str:
    preset = _presets() / f"{source}.yaml"
    try:
        if preset.is_file():
            return preset.read_text(encoding="utf-8")
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(preset_names())
        raise ConfigInvalid(f"{source}: neither a preset ({names}) nor a readable file: {error}") from error


def _apply_override(document: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigInvalid(f"--set {override}: wanted a.b=value")
    problem = unknown_field(Config, path.split("."))
    if problem is not None:
        raise ConfigInvalid(f"--set {override}: {problem}")
    *parents, last = path.split(".")
    section = document
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigInvalid(f"--set {override}: {parent} is no section in the document")
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"--set {override}: {text!r} is no YAML value: {error}") from error
