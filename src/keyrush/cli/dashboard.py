"""`keyrush dashboard …`: links to it, the sessions that come of them, and the dashboard itself on
this machine.
"""

from __future__ import annotations

from typing import Annotated

import typer

from keyrush.cli import output
from keyrush.cli.common import CommandError, Json, opened, writing
from keyrush.cli.help import NUMBER, TEXT, Command, Group, number
from keyrush.errors import InvalidArgument
from keyrush.gate.gate import Gate
from keyrush.operations.documents import session_json

app = typer.Typer(cls=Group, rich_markup_mode=None)
sessions = typer.Typer(cls=Group, rich_markup_mode=None)
app.add_typer(sessions, name="sessions")

_LAST_PORT = 65_535

_ReadOnly = Annotated[
    bool, typer.Option("--read-only", help="Whoever signs in may look, and change nothing.")
]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    *,
    account: Annotated[
        str | None,
        typer.Option(
            metavar=TEXT, help="Whose dashboard; not needed if there is only one account."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(metavar=NUMBER, parser=number, help="The port; 0 for a free one.")
    ] = 0,
    read_only: _ReadOnly = False,
) -> None:
    """Serve an account's dashboard on this machine, until Ctrl-C, and print the link to it.

    Only who has signed in with the link can use it.
    """
    if context.invoked_subcommand is not None:
        if account is not None or port or read_only:
            raise InvalidArgument("dashboard", "give options behind the command that they are of")
        return
    if not 0 <= port <= _LAST_PORT:
        raise InvalidArgument("port", f"{port} is no port; give one from 0 to {_LAST_PORT}")
    try:
        from keyrush.cli import dashboard_here  # noqa: PLC0415  # needs an extra
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the dashboard here needs {error.name}: pip install 'keyrush[dashboard]' uvicorn"
        ) from error
    with opened() as gate:
        dashboard_here.run(gate, _only(gate, account), port, write=not read_only)


def _only(gate: Gate, account_id: str | None) -> str:
    """The account that is meant."""
    if account_id is not None:
        return gate.accounts.get(account_id).id
    found = gate.accounts.list(limit=2)
    if len(found) != 1:
        raise CommandError(
            "there is no account yet"
            if not found
            else "there are several accounts: say which "
            "by --account, 'keyrush accounts list' shows them"
        )
    return found[0].id


@app.command("link", cls=Command)
def make_link(
    account_id: Annotated[str, typer.Argument(metavar="ACCOUNT")],
    *,
    read_only: _ReadOnly = False,
    json: Json = False,
) -> None:
    """Print a link that signs in to an account's dashboard, once, within 10 minutes.

    The session lasts for 24 hours at most. Whoever has the link has the account, so treat it like a
    password.
    """
    with writing(json) as gate:
        url = gate.portal_link(account_id, write=not read_only)
        if json:
            output.dump({"url": url})
        else:
            output.say(url)
        if not (gate.settings.dashboard_url or gate.settings.public_url):
            output.aside(
                "KEYRUSH_DASHBOARD_URL says where your dashboard is; without it, this is where a "
                "server on this machine has it",
                json=json,
            )


@sessions.callback(invoke_without_command=True)
def list_sessions(
    context: typer.Context,
    *,
    account: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Only the sessions of this account.")
    ] = None,
    json: Json = False,
) -> None:
    """List open sessions, oldest first, at most 1,000."""
    if context.invoked_subcommand is not None:
        return
    with opened() as gate:
        found = gate.portal.sessions(account)
        if json:
            output.dump([session_json(one) for one in found])
        else:
            output.session_table(found)


@sessions.command("revoke", cls=Command)
def revoke_session(
    session: Annotated[str, typer.Argument(metavar="SESSION")], *, json: Json = False
) -> None:
    """End a session: its owner is signed out at the next request."""
    with writing(json) as gate:
        gate.portal.end(session)
        if json:
            output.dump({"id": session, "status": "ended"})
        else:
            output.say(f"Ended {session}")
