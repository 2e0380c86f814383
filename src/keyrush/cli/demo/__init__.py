"""`keyrush demo`: the Rushed example, and OpenRush in small with its three doors, served and sent
real requests, every answer checked.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from keyrush.apps.dashboard import Dashboard
from keyrush.cli import output
from keyrush.cli.demo import doors, month
from keyrush.cli.demo.example import examples, load
from keyrush.cli.demo.rows import show
from keyrush.cli.demo.walk import PATH, QUOTA, Demo, Row
from keyrush.cli.serving import listening, served, until_interrupted
from keyrush.gate.gate import Gate
from keyrush.settings.settings import PREFIX, Settings
from keyrush.settings.tables import PlanTable

#: Where people would get keys: nobody's address (RFC 6761 §6.5).
KEYS_URL = "https://keys.example/new"


def run(*, serve: bool, as_json: bool, verbose: bool = False) -> int:
    """Run the demo and print it; 0 if every row was as documented, else 1.

    A line a row; with `verbose` also what was sent, and headers and body of what came back.
    """
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]  # the demo is the same everywhere
    folder = examples()
    with tempfile.TemporaryDirectory(prefix="keyrush-demo-") as temporary:
        tiny = PlanTable(limits="100/minute", monthly_quota=QUOTA)
        settings = Settings(
            config=folder / "rushed.toml",
            store_url=f"sqlite:///{temporary}/demo.db",
            keys_url=KEYS_URL,
            plans=Settings(config=folder / "rushed.toml").plans | {"tiny": tiny},
        )
        gate = Gate.open(settings)
        try:
            with served(load(folder / "rushed.py", gate)) as port:
                demo = Demo(gate, port)
                if not as_json:
                    output.say(f"{folder / 'rushed.py'} is served at http://127.0.0.1:{port}")
                    output.say("Sending requests; one of them waits some seconds for its limit …")
                demo.walk()
                rows = demo.rows + _three_doors()
                show(rows, as_json, verbose)
                if serve:
                    with _dashboard(temporary) as link:
                        _keep_serving(demo, link)
                elif not as_json:
                    output.say("\nkeyrush demo --serve has a dashboard with a month in it, too.")
        finally:
            gate.close()
    return 1 if any(row.wrong for row in rows) else 0


def _three_doors() -> list[Row]:
    """What comes of one account that a key, a session and an agent act for."""
    listener = listening()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    gate = Gate.open(doors.settings(url))
    try:
        with served(doors.app(gate), listener):
            found = doors.Doors(gate, url)
            found.walk()
    finally:
        gate.close()
    return found.rows


@contextmanager
def _dashboard(folder: str) -> Iterator[str]:
    """A dashboard of a month that is made up, served; gives a link to it."""
    listener = listening()
    at = f"http://127.0.0.1:{listener.getsockname()[1]}/dashboard"
    settings = month.settings(
        store_url=f"sqlite:///{folder}/month.db",
        public_url="https://api.fernpost.example",
        dashboard_url=at,
        dashboard_name="Fernpost",
        dashboard_links={"Documentation": "https://example.com/docs"},
        dashboard_top_up_url="https://example.com/pay",
        dashboard_plans_url="https://example.com/plans",
    )
    gate = Gate.open(settings)
    try:
        month.fill(gate)
        app = Starlette(routes=[Mount("/dashboard", Dashboard(gate))])
        with served(app, listener):
            yield gate.portal_link(month.ACCOUNT)
    finally:
        gate.close()


def _keep_serving(demo: Demo, link: str) -> None:
    limits = "3/10second"
    keys = {
        "live key": demo.key("live"),
        "test key": demo.key("test", environment="test"),
        f"limit of {limits}; send it four times": demo.key("limited", limits=limits),
    }
    output.say("\nStill serving. To paste:\n")
    for about, key in keys.items():
        output.say(f"# {about}\ncurl -i -H 'X-API-Key: {key.text}' {demo.url}{PATH}")
    output.say("\nA dashboard with a month in it; the link works once, within 10 minutes:\n")
    output.say(link)
    until_interrupted()
