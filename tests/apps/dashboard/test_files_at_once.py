"""Files of an account that are made at once."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.apps.dashboard.frame import _FILES
from tests.apps.dashboard.conftest import app_of
from tests.support.calls import Sent, run, scope_of
from tests.support.dashboard import Browser

PATHS = ["/dashboard/activity.csv", "/dashboard/billing.csv"]


class Reader:
    """Somebody who reads a file of `acct_a`, and takes what comes when they are told to, or is lost
    then.
    """

    def __init__(self, app: Starlette, path: str, *, is_lost: bool) -> None:
        self.app, self.path, self.is_lost = app, path, is_lost
        self.begun, self.goes_on = anyio.Event(), anyio.Event()

    async def __call__(self) -> None:
        scope = scope_of(Sent(self.path, [("x-who", "acct_a")]), scheme="https")
        try:
            await self.app(scope, self._stay, self._send)
        except Exception:  # as servers do, whatever is around the error
            assert self.is_lost

    async def _stay(self) -> Any:
        await anyio.sleep_forever()

    async def _send(self, _: Any) -> None:
        self.begun.set()
        await self.goes_on.wait()
        if self.is_lost:
            raise OSError("lost")


@pytest.mark.parametrize("is_lost", [False, True], ids=["taken", "lost"])
@pytest.mark.parametrize("path", PATHS)
def test_so_many_at_once(gate: Gate, path: str, is_lost: bool) -> None:
    """O20: no account keeps a process busy with files: more than a few at once are answered 429,
    whether the readers are slow or were lost. Other accounts, and what else there is, go on.
    """
    app = app_of(Dashboard(gate, account_of=lambda request: request.headers["x-who"]))
    readers = [Reader(app, path, is_lost=is_lost) for _ in range(_FILES)]

    async def ask(who: str, what: str = path, method: str = "GET") -> int:
        return (await Browser(app).send(Sent(what, [("x-who", who)], method))).status

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for reader in readers:
                group.start_soon(reader)
            for reader in readers:
                await reader.begun.wait()
            assert await ask("acct_a") == 429
            assert await ask("acct_a", method="HEAD") == 429
            assert await ask("acct_b") == 200
            assert await ask("acct_a", "/dashboard/billing") == 200
            for reader in readers:
                reader.goes_on.set()
        for _ in range(_FILES + 1):
            assert await ask("acct_a") == 200
            assert await ask("acct_a", "/dashboard/activity.csv?key=a%00") in {200, 400}
            assert await ask("acct_a", method="HEAD") == 200

    run(main())
