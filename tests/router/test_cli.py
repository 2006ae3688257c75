"""The command line as a whole: its help, its speed, its flags, and how it fails."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cluster.errors import QueueFull
from model.errors import CheckpointMissing
from router.cli import app
from router.cli_errors import FAILURE, INTERRUPTED, USAGE, CommandGroup
from router.cli_flags import FLAGS, overrides_of
from router.cli_serve import PRESETS
from router.config import Config, load_config, preset_names
from router.errors import ConfigInvalid, PlatformRefused

COMMANDS = ("serve", "chat", "status", "inspect", "fetch", "models", "version")
runner = CliRunner()


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_names_every_command():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.output


@pytest.mark.parametrize("command", [*COMMANDS, "models list", "models remove"])
def test_every_command_has_help(command: str):
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_list_of_commands_is_cut_off_nowhere_and_tells_the_exit_codes():
    output = runner.invoke(app, ["--help"]).output
    assert "..." not in output.partition("Commands:")[2]
    for code in (0, FAILURE, USAGE, INTERRUPTED):
        assert re.search(rf"^    {code} +\w", output, re.MULTILINE)


def test_serve_help_names_the_presets_that_exist_and_defaults_that_hold():
    assert sorted(PRESETS) == preset_names()
    output = runner.invoke(app, ["serve", "--help"]).output
    assert all(preset in output for preset in PRESETS)
    defaults = Config()
    for flag in FLAGS:
        found: object = defaults
        for name in flag.fields[0].split("."):
            found = getattr(found, name)
        is_in_words = found is None or found == []
        assert is_in_words or str(found) == flag.default, flag.name


def test_arguments_are_named_in_capitals():
    for command in ("inspect", "fetch", "convert", "models remove"):
        output = runner.invoke(app, [*command.split(), "--help"]).output
        assert not re.search(r"\{[a-z]+\}", output), command


def test_models_alone_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EXPERTMESH_CACHE", str(tmp_path))
    assert runner.invoke(app, ["models"]).output == runner.invoke(app, ["models", "list"]).output
    assert runner.invoke(app, ["models", "--json"]).output == "[]\n"


def test_help_imports_nothing_heavy():
    """Ray and torch take seconds, and a missing GPU library must not break `--help`."""
    code = (
        "import sys\nfrom router.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'grpc', 'fastapi', 'pydantic', 'httpx') if name in sys.modules])"
    )
    result = _python(code, "--help")
    assert result.stdout.splitlines()[-1] == "[]"
    assert "Usage:" in result.stdout


def test_an_unknown_command_or_option_is_a_usage_error():
    for arguments in (["serv"], ["status", "--jsn"], ["inspect"], ["serve", "--port", "http"]):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_version_is_readable_by_people_and_programs():
    assert runner.invoke(app, ["version"]).output.startswith("expertmesh ")
    document = json.loads(runner.invoke(app, ["version", "--json"]).output)
    assert {"expertmesh", "torch", "ray"} <= set(document)


def test_the_version_is_an_option_too():
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == runner.invoke(app, ["version"]).output.splitlines()[0] + "\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigInvalid("tiny: engine.x: no such field"), 2),
        (PlatformRefused("port 8000 is taken"), 1),
        (QueueFull("full"), 1),
        (CheckpointMissing("a/config.json", None, "is not there"), 1),
        (OSError("the disk is\nfull"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_expected_error_is_one_line_and_an_exit_code(error: BaseException, code: int):
    failing = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)

    @failing.command()
    def fail() -> None:
        raise error

    @failing.command()
    def other() -> None: ...

    result = runner.invoke(failing, ["fail"])
    assert result.exit_code == code
    assert result.stdout == ""
    expected = "" if code == 130 else f"error: {' '.join(str(error).split())}\n"
    assert result.stderr == expected


def test_a_bug_keeps_its_trace():
    failing = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)

    @failing.command()
    def fail() -> None:
        raise ZeroDivisionError

    @failing.command()
    def other() -> None: ...

    assert isinstance(runner.invoke(failing, ["fail"]).exception, ZeroDivisionError)


# A value that each flag may have.
_VALUES = {str: "127.0.0.9", int: 7, list[str]: ["key-1", "key-2"]}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_sets_fields_that_the_config_has(flag):
    value = _VALUES[flag.kind]
    config = load_config("tiny", overrides_of({flag.parameter: value}))
    for path in flag.fields:
        found: object = config
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value


def test_flags_that_were_not_given_say_nothing():
    assert overrides_of({flag.parameter: None for flag in FLAGS}) == []


def test_text_that_looks_like_something_else_stays_text():
    overrides = overrides_of({"served_model_name": "1e5", "model": "yes"})
    config = load_config("tiny", overrides)
    assert (config.model.served_name, config.model.path) == ("1e5", "yes")
