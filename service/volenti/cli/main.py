"""`volenti`: arguments in, exit codes out."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import rich_click as click
from click.exceptions import Exit

from volenti.errors import Invalid, LedgerDamaged, NotFound, Unavailable, VerificationError, VolentiError

NEGATIVE, MISUSE, UNREACHABLE = 1, 2, 3
"""Exit codes beside 0: a negative answer; wrong use; something that is needed cannot be reached."""

_COMMANDS = {
    "serve": "volenti.cli.serve:serve",
    "migrate": "volenti.cli.migrate:migrate",
    "doctor": "volenti.cli.doctor:doctor",
    "workspace": "volenti.cli.workspace:workspace",
    "credentials": "volenti.cli.credentials:credentials",
    "policy": "volenti.cli.policy:policy",
    "import": "volenti.cli.import_choices:import_choices",
    "audit": "volenti.cli.audit:audit",
    "keys": "volenti.cli.keys:keys",
    "recover": "volenti.cli.recover:recover",
}


class _Lazy(click.RichGroup):
    """A group that imports a command when it is asked for: `volenti --help` loads no server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="volenti", message="%(prog)s %(version)s")
def volenti() -> None:
    """Consent and preference management: a signed consent ledger, and a policy check that every component asks first."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a negative answer, 2 wrong use, 3 cannot reach what it needs."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code. What went wrong is one sentence on standard error."""
    try:
        result: Any = volenti.main(arguments, prog_name="volenti", standalone_mode=False)
    except Exit as ended:
        return int(ended.exit_code)
    except SystemExit:  # a group without a command: its help was shown
        return MISUSE
    except click.Abort:
        return MISUSE
    except click.ClickException as error:
        error.show()
        return MISUSE
    except VolentiError as error:
        click.echo(f"volenti: {error}", err=True)
        return code_of(error)
    return result if isinstance(result, int) else 0


def code_of(error: Exception) -> int:
    """The exit code that says what kind of error it was."""
    match error:
        case Invalid():
            return MISUSE
        case Unavailable():
            return UNREACHABLE
        case NotFound() | LedgerDamaged() | VerificationError():
            return NEGATIVE
        case _:
            return NEGATIVE
