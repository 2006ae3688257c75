"""Keys: where they come from, how they are compared, and that nobody listens beyond loopback without one."""

import ast
import contextvars
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from router.auth import KeyRing, cache_salt, is_loopback, load_keys, note_client, require_keys_off_loopback
from router.config import AuthSection, EdgeSection
from router.errors import ConfigInvalid, PlatformRefused, Unauthenticated


def test_keys_of_config_file_and_environment_all_count(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfrom-file\n\n  padded  \n", encoding="utf-8")
    section = AuthSection(api_keys=["from-config"], api_keys_file=str(file))

    keys = load_keys(section, {"EXPERTMESH_API_KEYS": "one, two,"})

    names = {keys.check(f"Bearer {key}") for key in ("from-config", "from-file", "padded", "one", "two")}
    assert len(names) == 5
    with pytest.raises(Unauthenticated):
        keys.check("Bearer # ours")


def test_an_empty_ring_asks_nobody() -> None:
    keys = load_keys(AuthSection(), {})

    assert keys.is_empty
    assert keys.check(None) is None


@pytest.mark.parametrize(
    "section", [AuthSection(api_keys=[""]), AuthSection(api_keys=["a b"]), AuthSection(api_keys=["ä"])]
)
def test_a_key_that_no_header_can_carry_is_refused(section: AuthSection) -> None:
    with pytest.raises(ConfigInvalid):
        load_keys(section, {})


@pytest.mark.parametrize("text", [None, "", "# nothing\n"])
def test_a_key_file_without_keys_is_refused(tmp_path: Path, text: str | None) -> None:
    """Otherwise a typo would open the server to everybody."""
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigInvalid, match="keys"):
        load_keys(AuthSection(api_keys_file=str(file)), {})


def test_the_name_of_a_key_does_not_give_it_away() -> None:
    name = KeyRing(["secret"]).check("Bearer secret")

    assert name is not None
    assert "secret" not in name
    assert len(name) == 8


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
@pytest.mark.parametrize("server", ["http", "grpc"])
def test_nothing_listens_beyond_loopback_without_keys(host: str, server: str) -> None:
    edge = EdgeSection.model_validate({server: {"host": host}})

    with pytest.raises(PlatformRefused, match="EXPERTMESH_API_KEYS") as caught:
        require_keys_off_loopback(edge, KeyRing())
    assert f"edge.{server}.host" in str(caught.value)
    require_keys_off_loopback(edge, KeyRing(["key"]))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    require_keys_off_loopback(EdgeSection.model_validate({"http": {"host": host}}), KeyRing())


def test_keys_are_compared_in_constant_time_and_kept_as_digests() -> None:
    """No `==` or `in` on keys or digests in the file, and no key among the ring's fields."""
    tree = ast.parse(inspect.getsource(KeyRing))
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]

    assert "hmac.compare_digest" in inspect.getsource(KeyRing.check)
    assert not [node for node in compared if any(isinstance(op, ast.Eq | ast.In) for op in node.ops)]
    assert b"secret" not in b"".join(vars(KeyRing(["secret"]))["_digests"])


def test_clients_share_computed_prefixes_with_themselves_only() -> None:
    def salt_of(key_name: str | None) -> str:
        note_client(key_name)
        return cache_salt()

    def in_a_request(call: Callable[..., str], *arguments: str | None) -> str:
        return contextvars.Context().run(call, *arguments)

    assert in_a_request(salt_of, None) == in_a_request(salt_of, None) == ""
    assert in_a_request(salt_of, "k1") == in_a_request(salt_of, "k1") != in_a_request(salt_of, "k2")
    assert in_a_request(cache_salt) != in_a_request(cache_salt), "a request of nobody known shares with none"
