"""The `keyrush` command: keys and accounts in the store that `KEYRUSH_*` names."""

from __future__ import annotations

import io
import re
import sys
from typing import Annotated, NoReturn
from urllib.parse import unquote

import typer

import keyrush
from keyrush.cli import accounts, dashboard, keys, output, sessions
from keyrush.cli import activity as _activity  # noqa: F401  # which adds to `keyrush accounts`
from keyrush.cli import credits as _credits  # noqa: F401  # which adds to `keyrush accounts`
from keyrush.cli import init as beginning
from keyrush.cli.common import CommandError, Json
from keyrush.cli.help import Command, Group
from keyrush.errors import (
    ConfigurationError,
    DataError,
    InvalidArgument,
    NotFound,
    TooManyKeys,
    Unavailable,
)

_EXIT_CODES = """Exit codes: 0 done; 1 not found, or not possible now; 2 wrong arguments
or settings; 3 the store is unavailable."""

app = typer.Typer(
    cls=Group,
    help="API keys, scopes, plan limits and quotas. Configured by KEYRUSH_* variables "
    "and keyrush.toml.",
    epilog=_EXIT_CODES,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # plain tracebacks: no local variable is ever shown (S82)
)
app.add_typer(keys.app, name="keys", epilog=_EXIT_CODES)
app.add_typer(accounts.app, name="accounts", epilog=_EXIT_CODES)
app.add_typer(sessions.app, name="sessions", epilog=_EXIT_CODES)
app.add_typer(dashboard.app, name="dashboard", epilog=_EXIT_CODES)


def main() -> None:
    """Run the command line and exit with one of the documented codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names hold what terminals may lack
    try:
        code = app(prog_name="keyrush", standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:  # raised again where it is not expected
        _exit(error)
    sys.exit(code if isinstance(code, int) else 0)


def _exit(error: Exception) -> NoReturn:
    """Say what went wrong, one line each, and exit; raise again what nobody has foreseen."""
    message = str(error)
    if isinstance(error, NotFound | CommandError | TooManyKeys | DataError):
        code = 1
    elif isinstance(error, Unavailable | OSError):
        code = 3
    elif isinstance(error, ConfigurationError | InvalidArgument):
        code = 2
    elif hasattr(error, "format_message"):  # typer's errors; it does not export their base
        code, message = 2, error.format_message()
        if context := getattr(error, "ctx", None):
            message += f" (see {context.command_path} --help)"
    else:
        raise error
    message = re.sub(r"\n\s+", " ", _without_keys(message))  # a driver's remarks
    for line in message.splitlines():
        typer.echo(f"Error: {line}", err=True)
    sys.exit(code)


#: What looks like a key of any format, whatever surrounds it.
_KEY = re.compile(
    r"([A-Za-z][A-Za-z0-9]{0,15}_(?:[A-Za-z0-9_-]{1,32}_)?[0-9A-Za-z]{6})[0-9A-Za-z]{30,}"
)


def _without_keys(text: str) -> str:
    """The text with whatever looks like a key cut to its display prefix (O22, S82)."""
    decoded = text
    for _ in range(4):  # so often may somebody's tools have percent-encoded it
        decoded = unquote(decoded)
    return _KEY.sub(r"\1...", decoded if _KEY.search(decoded) else text)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        output.say(f"keyrush {keyrush.__version__}")
    elif context.invoked_subcommand is None:
        output.say(context.get_help())


@app.command("init", cls=Command)
def _init(json: Json = False) -> None:
    """Write a commented keyrush.toml into this folder, and say what to type next."""
    beginning.run(as_json=json)


@app.command("doctor", cls=Command)
def _doctor(json: Json = False) -> None:
    """Check settings, store and pepper, and measure their cost. Exit code 0: nothing is wrong."""
    from keyrush.cli import doctor as examination  # noqa: PLC0415  # only this command needs it

    raise typer.Exit(examination.run(as_json=json))


@app.command("demo", cls=Command)
def _demo(
    serve: Annotated[bool, typer.Option("--serve", help="Keep serving until Ctrl-C.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also show requests, headers and bodies.")
    ] = False,
    json: Json = False,
) -> None:
    """Start an example, a news API, send requests to it and check every answer."""
    if serve and json:
        raise InvalidArgument("demo", "give either --serve or --json")
    try:
        from keyrush.cli import demo as demonstration  # noqa: PLC0415  # needs an extra
    except ModuleNotFoundError as error:
        raise CommandError(f"the demo needs {error.name}: pip install 'keyrush[demo]'") from error
    raise typer.Exit(demonstration.run(serve=serve, as_json=json, verbose=verbose))
