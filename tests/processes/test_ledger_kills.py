"""Ledgers of processes that are killed, at each statement that they send."""

from __future__ import annotations

from tests.support.scripts import run

#: Forks once for each statement of some steps, and kills the fork before it is sent. What the fork
#: was told is in the ledger then, and what was under way is there as a whole or not at all; who
#: repeats all the steps comes to what they come to undisturbed.
KILLS = """
    import os
    import signal
    import sys

    import sqlalchemy as sa

    from keyrush.core.ledger import By, Posting, Refill
    from keyrush.core.model import Account
    from keyrush.sql.engine import Database
    from keyrush.store.sql import SqlStore

    NOW = 1_795_124_820_000
    store = SqlStore(Database(sys.argv[1]))
    left = None

    def count(*_):
        global left
        if left is not None:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if store.database.dialect == "sqlite":
        connected = lambda connection, _: connection.set_trace_callback(count)
        sa.event.listen(store.database.engine, "connect", connected)
    else:
        from keyrush.sql.patience import PatientConnection
        wait = PatientConnection.wait
        PatientConnection.wait = lambda *given, **named: (count(), wait(*given, **named))[1]

    def steps(name):
        yield store.post(name, Posting(10, "grant", NOW, "g", expires_at=NOW + 10))
        yield store.charge(name, 12, "a", NOW, By("api", "cred_a"), Refill("2026-11", 5, NOW + 99))
        yield store.charge(name, 1, "b", NOW)
        yield store.reverse(name, "a", NOW + 10)
        yield store.charge(name, 1, "c", NOW + 99, By("api"), Refill("2026-12", 5))
        yield store.post(name, Posting(-2, "adjustment", NOW + 99, "slip"))
        yield store.reverse(name, "c", NOW + 99)

    def entered(name):
        found = reversed(store.entries(name, limit=1000))
        return [(one.number, one.amount, one.reason, one.reference) for one in found]

    def adds_up():
        return not store.audit_entries(None, 10**6).wrong + store.audit_balances(None, 10**6).wrong

    store.add_account(Account("undisturbed", "starter", NOW))
    come = [len(entered("undisturbed")) for _ in steps("undisturbed")]
    come = [0, *come, come[-1]]
    expected = entered("undisturbed")
    store.close()

    killed = 0
    while True:
        name = f"acct_{killed}"
        store.add_account(Account(name, "starter", NOW))
        store.close()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            left = killed
            for _ in steps(name):
                os.write(writer, b".")
            os._exit(0)
        os.close(writer)
        told = 0
        while os.read(reader, 1):
            told += 1
        os.close(reader)
        if not os.waitpid(child, 0)[1]:
            break
        assert len(entered(name)) in come[told : told + 2], (killed, told, entered(name))
        assert adds_up()
        for _ in steps(name):
            pass
        assert entered(name) == expected, (killed, entered(name))
        killed += 1
    assert adds_up()
    print(killed)
    """


def test_killed_at_any_statement(url: str) -> None:
    """O11, O12: what a process was told before it was killed, the ledger has; what it was about is
    done or not done, never in part; and who repeats it by its reference does it once.
    """
    assert int(run(KILLS, url)) > 20
