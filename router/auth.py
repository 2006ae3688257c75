"""API keys: who may use the server. Without keys it listens on loopback only.

Keys come from the config, from a file with one key a line, and from the environment. Only their digests are kept.
"""

import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path

from router.config import AuthSection, EdgeSection
from router.errors import ConfigInvalid, PlatformRefused, Unauthenticated

KEYS_VARIABLE = "EXPERTMESH_API_KEYS"
"""Keys separated by commas."""
_SCHEME = "bearer "
_NAME_CHARS = 8
_client: ContextVar[str | None] = ContextVar("client", default=None)
"""The name of the key that the present request came with, empty where none is needed; None if nobody has looked."""


class KeyRing:
    """The accepted keys. An empty ring accepts everybody."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Keep the digests of `keys`."""
        self._digests = tuple(_digest(key) for key in keys)

    @property
    def is_empty(self) -> bool:
        """Return whether no key is asked for."""
        return not self._digests

    def check(self, authorization: str | None) -> str | None:
        """Return a short name of the key in an `authorization` header, None if no key is asked for.

        The name is the start of the key's digest, fit for logs. All keys are compared, each in constant time. Raises
        Unauthenticated.
        """
        if self.is_empty:
            return None
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            raise Unauthenticated("An API key is needed. Send it as `Authorization: Bearer KEY`.")
        digest = _digest(authorization[len(_SCHEME) :].strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Unauthenticated("This API key is not known here.")
        return digest.hex()[:_NAME_CHARS]

    def owner(self, authorization: str | None) -> str:
        """Return whose things the bearer of a checked `authorization` header sees: the key's digest.

        It is empty where no key is asked for: there everybody is the same.
        """
        return "" if self.is_empty else _digest((authorization or "")[len(_SCHEME) :].strip()).hex()


def note_client(key_name: str | None) -> None:
    """Remember, for the request that is being answered, whose key it came with; None where no key is needed."""
    _client.set(key_name or "")


def note_owner(owner: str) -> None:
    """Remember that what runs now runs for the bearer of the key that `KeyRing.owner` has named."""
    note_client(owner[:_NAME_CHARS] or None)


def cache_salt() -> str:
    """Return what keeps one client's computed prefixes from the others: their speed would tell what others ask.

    A request of nobody known shares with none.
    """
    client = _client.get()
    return secrets.token_hex(8) if client is None else client


def tenant() -> str:
    """Return whose request is being answered, as an opaque name: of its key, or empty where everybody is the same."""
    return _client.get() or ""


def load_keys(section: AuthSection, environment: Mapping[str, str] = os.environ) -> KeyRing:
    """Return the keys of `read_keys`, as digests; raises ConfigInvalid naming a bad source."""
    return KeyRing(read_keys(section, environment))


def read_keys(section: AuthSection, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the keys of the config, of its file and of the environment; raises ConfigInvalid naming a bad source."""
    keys = list(section.api_keys)
    if section.api_keys_file is not None:
        keys += _file_keys(section.api_keys_file)
    keys += [key.strip() for key in environment.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    for key in keys:
        # A header carries printable ASCII; another key could never be sent.
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise ConfigInvalid("an API key is empty or has characters that no header can carry")
    return keys


def require_keys_off_loopback(edge: EdgeSection, keys: KeyRing) -> None:
    """Raise PlatformRefused if HTTP or gRPC would listen beyond loopback without any key."""
    for name, host in (("http", edge.http.host), ("grpc", edge.grpc.host)):
        if keys.is_empty and not is_loopback(host):
            raise PlatformRefused(
                f"edge.{name}.host is {host}: beyond loopback an API key is required. Give --api-key KEY, set "
                f"{KEYS_VARIABLE}=KEY in the environment, or edge.auth.api_keys or edge.auth.api_keys_file in the "
                "config; or listen on this machine only, with --host 127.0.0.1."
            )


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from this machine only; a name other than localhost is not trusted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _file_keys(path: str) -> list[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"edge.auth.api_keys_file: {path} cannot be read: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigInvalid(f"edge.auth.api_keys_file: {path} has no key")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
