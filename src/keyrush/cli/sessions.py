"""`keyrush sessions …`."""

from __future__ import annotations

from typing import Annotated

import typer

from keyrush.cli import output
from keyrush.cli.accounts import Subject
from keyrush.cli.common import Json, writing
from keyrush.cli.help import TEXT, Command, group
from keyrush.operations.documents import link_json

app = group("Revoke the session and OAuth tokens of a person.")


@app.command("revoke", cls=Command)
def revoke_sessions(
    *,
    subject: Subject,
    issuer: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Only tokens of this issuer. [default: of any]")
    ] = None,
    json: Json = False,
) -> None:
    """Refuse every token that was issued to a person before now.

    Running apps do so as fast as they refuse a revoked key. Keys that the person's sessions have
    made still work.
    """
    with writing(json) as gate:
        revoked = gate.sessions.revoke(subject, issuer=issuer)
        if json:
            output.dump([link_json(link) for link in revoked])
        else:
            output.link_table(revoked)
