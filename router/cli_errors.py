"""What ends a command: exit codes, and the one place where expected errors become one line on stderr.

`EXIT_CODES` is where they are documented; `expertmesh --help` shows it.

CliError (a RouterError)
├── ServerUnreachable     nothing answers at the address
└── ServerRefused         the server answered, and not with what was asked
"""

from typing import Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from cluster.errors import ClusterError
from model.errors import ModelError
from router.errors import ConfigInvalid, RouterError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130
EXIT_CODES = f"""\
\b
Exit codes:
  0    done; of `serve`, also ended by Ctrl-C once it was ready
  {FAILURE}    it failed, or the answer is no: `status` of a server that is not
       ready, `inspect` of a checkpoint that is not whole
  {USAGE}    wrong usage, or a config that cannot be used
  {INTERRUPTED}  interrupted
Errors are one line on stderr; --json prints one document on stdout."""


class CliError(RouterError):
    """A command cannot do what was asked."""


class ServerUnreachable(CliError):
    """Nothing answers at the address."""


class ServerRefused(CliError):
    """The server answered, and not with what was asked; the message is the server's."""


class CommandGroup(TyperGroup):
    """Commands whose expected errors end as one line and an exit code; anything else is a bug and keeps its trace."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ConfigInvalid as error:
            end_with(error, USAGE)
        except (RouterError, ModelError, ClusterError, OSError) as error:
            end_with(error, FAILURE)
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error


def end_with(error: Exception, code: int) -> NoReturn:
    """Print the error's message as one line and end with the exit code."""
    line = " ".join(str(error).split()) or type(error).__name__
    Console(stderr=True, soft_wrap=True, highlight=False).print("error:", line, style="red", markup=False)
    raise typer.Exit(code) from error
