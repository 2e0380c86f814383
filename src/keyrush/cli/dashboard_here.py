"""`keyrush dashboard`: the dashboard on this machine, which needs a server and the extra."""

from __future__ import annotations

from keyrush.apps.dashboard import Dashboard
from keyrush.cli import output
from keyrush.cli.serving import listening, served, until_interrupted
from keyrush.gate.gate import Gate


def run(gate: Gate, account_id: str, port: int, *, write: bool) -> None:
    """Serve the account's dashboard until Ctrl-C; the link to it is printed, and opens it once."""
    with served(Dashboard(gate, only=account_id), listening(port), lifespan="off") as at:
        url = f"http://127.0.0.1:{at}"
        output.say(f"The dashboard of {account_id} is served at {url}")
        output.say("Sign in to it by this link, which works once, within 10 minutes:\n")
        output.say(f"{url}/link/{gate.portal.link(account_id, write=write)}")
        until_interrupted()
