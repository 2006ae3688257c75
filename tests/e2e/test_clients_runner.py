"""The runner of real clients, without the clients: what counts as a check, a failure, and something to install."""

import sys
from pathlib import Path

import pytest

from tests.e2e.clients.catalogue import CLIENTS, Client, Kind
from tests.e2e.clients.environments import command_of, prepared
from tests.e2e.clients.outcomes import Outcome, outcome, table

SCRIPTS = Path(__file__).parent / "clients"


def ran(folder: Path, script: str, timeout_s: float = 30.0) -> Outcome:
    path = folder / "script.py"
    path.write_text(script)
    return outcome("it", "1", "tiny", [sys.executable, str(path)], folder, timeout_s)


def test_checks_are_the_lines_that_name_what_was_seen(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        "print('ok chat: 42')\nprint('ok tool over Chat: sunny')\nprint('ok chat: again')\nprint('loading: 100')",
    )
    assert (said.checked, said.failure) == (("chat", "tool over Chat"), None)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("print('ok chat: 42')\nassert False, 'no stream'", "status 1"),
        ("pass", "it checked nothing"),
        ("import time\ntime.sleep(30)", "not done after 0.5 s"),
    ],
)
def test_a_failure_says_why_and_what_the_script_said(tmp_path: Path, script: str, why: str) -> None:
    said = ran(tmp_path, script, timeout_s=0.5 if "sleep" in script else 30.0)
    assert said.failure is not None
    assert said.failure.startswith(f"{why}\n")
    assert ("no stream" in said.failure) == ("no stream" in script)


def test_a_client_asks_nobody_but_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = ran(tmp_path, "import os\nprint('ok env:', os.environ['HF_HUB_OFFLINE'], 'PYTHONPATH' in os.environ)")
    assert said.failure is None
    assert said.checked == ("env",)


def test_the_table_has_a_row_for_each() -> None:
    rows = table([Outcome("a", "1.2", "tiny", ("x", "y"), None, 1.6), Outcome("b", "", "", (), "gone\nfar", 0.0)])
    assert rows.splitlines()[2:] == ["| a | 1.2 | tiny | x, y | passed | 2 |", "| b |  |  |  | FAILED: gone | 0 |"]


def test_every_client_has_its_script_and_a_pinned_version() -> None:
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)
    for client in CLIENTS:
        assert (SCRIPTS / client.script).is_file(), client
        assert client.source or client.version[0].isdigit(), client
    listed = {path.name for path in SCRIPTS.iterdir() if "_client." in path.name}
    assert listed == {client.script for client in CLIENTS}


def test_what_is_installed_as_pinned_is_not_installed_again(tmp_path: Path) -> None:
    client = Client("it", Kind.PIP, ("it==1",), "it_client.py")
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "installed.txt").write_text("it==1")
    folder = prepared(client, tmp_path, {})
    assert [path.name for path in folder.iterdir()] == ["installed.txt"]
    assert command_of(client, folder, Path("it_client.py"))[0] == str(folder / "venv" / "bin" / "python")
