"""The command `clickledger`: one typer application, commands registered from `clickledger.commands`.

Rule of this file: an error is one line on standard error that says what to do, and an exit status that scripts can use.
Only unexpected errors (bugs) show a traceback.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from typing import NoReturn

import typer
from typer._click.exceptions import ClickException, NoArgsIsHelpError, UsageError

from clickledger import commands
from clickledger.commands import services
from clickledger.exit_codes import ExitCode
from shared.errors import ClickledgerError, TransientError
from shared.quiet import LIBRARY

_INTERRUPTED = 130  # the shells' convention for Ctrl-C

_HELP = """Click ingestion that loses nothing, counts nothing twice and can prove it.

Start with: clickledger up --demo

Exit status, of every command: 0 done; 1 the answer is no (gap, double, refused line, refusal); 2 wrong usage or
settings; 3 no stack runs, a time-out, or something does not answer.
"""


def build_app(command: str = "") -> typer.Typer:
    """Make the application; every module of `clickledger.commands` adds its commands by `register(app)`.

    A service's command comes alone: what the others import would be a fifth of a second of each of its restarts.
    """
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    if command in services.SERVICES:
        services.register(app)
        return app
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda found: found.name):
        importlib.import_module(f"{commands.__name__}.{module.name}").register(app)
    return app


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the console script: run one command and exit with its status."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """Run one command and give its exit status; expected errors are printed as one line."""
    logging.getLogger(LIBRARY).setLevel(logging.CRITICAL)  # our own line says it once; services set up their logging
    try:
        status = build_app(next(iter(arguments), ""))(args=arguments, prog_name="clickledger", standalone_mode=False)
    except NoArgsIsHelpError as exc:
        sys.stderr.write(f"{exc.format_message()}\n")
        return ExitCode.USAGE
    except UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else "clickledger"
        return _fail(f"{exc.format_message()} (see {path} --help)", ExitCode.USAGE)
    except ClickException as exc:
        return _fail(exc.format_message(), ExitCode.FAILED)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", _INTERRUPTED)
    except TransientError as exc:
        return _fail(str(exc), ExitCode.UNREACHABLE)
    except ClickledgerError as exc:
        return _fail(str(exc), ExitCode.USAGE if str(exc).startswith("settings: ") else ExitCode.FAILED)
    except OSError as exc:
        if exc.filename is None:  # not about a file that the user named: a bug shows its traceback
            raise
        return _fail(f"{exc.filename}: {exc.strerror}", ExitCode.FAILED)
    return status if isinstance(status, int) else ExitCode.OK


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"clickledger: {line}\n")
    return status
