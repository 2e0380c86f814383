"""What calls that come to nothing were charged is given back, by what the answer says of them."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush import Gate
from keyrush.wire.outcomes import MAX_LOOKED_AT, Outcomes
from tests.conftest import Clock, settings, still
from tests.support.resources import DOORS, RESOURCE, RULES, App, Door, call, message, result

ERROR = message(None, 1, error={"code": -32001, "message": "refused by the tool"})
IS_ERROR = result(isError=True)
MORE = result(resultType="input_required", requestState="v1.abc")
PROGRESS = message("notifications/progress", None, params={"progress": 1})
#: A question of the server's, whose ids are its own.
QUESTION = message("elicitation/create", 1, params={"error": 1})

#: What an answer says, and what is left of 100 credits.
ANSWERS: list[tuple[list[Any], int]] = [
    ([result()], 90),
    ([ERROR], 100),
    ([IS_ERROR], 100),
    ([MORE], 100),
    ([result(resultType="complete")], 90),
    ([result(isError="true")], 90),
    ([result(content=[{"text": json.dumps(IS_ERROR)}])], 90),
    ([result(structuredContent={"isError": True, "error": 1})], 90),
    ([message(None, 2, error={})], 90),  # of another call
    ([message(None, "1", error={})], 90),
    ([QUESTION], 90),
]


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize(("answer", "left"), ANSWERS)
def test_what_an_answer_says(  # noqa: PLR0917  # fixtures
    door: Door, app: App, mcp_gate: Gate, key: str, events: bool, answer: list[Any], left: int
) -> None:
    """O11: an error, of JSON-RPC or of the tool, and a question cost nothing; work does."""
    app.answers(*answer, events=events)
    reply = door.post(call("audit_site"), key)
    assert reply.body == b"".join(app.chunks)  # unchanged
    assert mcp_gate.credits.balance("acct_a") == left


STREAMS: list[tuple[list[Any], int]] = [
    ([PROGRESS, result()], 90),
    ([PROGRESS, IS_ERROR], 100),
    ([QUESTION, PROGRESS, ERROR], 100),
    ([PROGRESS], 90),  # the last message comes on another stream
    ([], 90),
]


@pytest.mark.parametrize(("answer", "left"), STREAMS)
def test_streams(  # noqa: PLR0917  # fixtures
    door: Door, app: App, mcp_gate: Gate, key: str, answer: list[Any], left: int
) -> None:
    """O11: of a stream the message with the request's id decides; without one the charge stays."""
    app.answers(*answer, events=True)
    door.post(call("audit_site"), key)
    assert mcp_gate.credits.balance("acct_a") == left


@pytest.mark.parametrize(
    ("status", "left"), [(200, 90), (202, 90), (300, 100), (400, 100), (500, 100)]
)
def test_statuses(  # noqa: PLR0917  # fixtures
    door: Door, app: App, mcp_gate: Gate, key: str, status: int, left: int
) -> None:
    """O11: what is answered with 300 or above has done no work."""
    app.status = status
    door.post(call("audit_site"), key)
    assert mcp_gate.credits.balance("acct_a") == left


def test_given_back_before_it_is_known(door: Door, app: App, mcp_gate: Gate, key: str) -> None:
    """O11: who reads that a call has failed finds the credits where they were."""
    seen: list[int] = []
    app.answers(PROGRESS, IS_ERROR, PROGRESS, events=True)
    app.during = lambda: seen.append(mcp_gate.credits.balance("acct_a"))
    door.post(call("audit_site"), key)
    assert seen == [90, 90, 100]


def test_several_rounds(door: Door, app: App, mcp_gate: Gate, key: str) -> None:
    """O11: of a call that asks back, each request is charged, and the last alone is kept."""
    for answer in (MORE, MORE, result()):
        app.answers(answer)
        door.post(call("audit_site"), key)
    assert mcp_gate.credits.balance("acct_a") == 90


def test_compressed(door: Door, app: App, mcp_gate: Gate, key: str) -> None:
    """O11: what the app compresses all the same counts as done."""
    app.answers(IS_ERROR).headers.append(("content-encoding", "br"))
    door.post(call("audit_site"), key)
    assert mcp_gate.credits.balance("acct_a") == 90


def test_larger_than_is_looked_at(door: Door, app: App, mcp_gate: Gate, key: str) -> None:
    """O11: an answer beyond the bound counts as done; one within it is read."""
    filler = "x" * (MAX_LOOKED_AT - 200)
    app.answers(result(content=filler, isError=True))
    door.post(call("audit_site"), key)
    assert mcp_gate.credits.balance("acct_a") == 100
    app.answers(result(content=filler + 200 * "x", isError=True))
    assert door.post(call("audit_site"), key).body == app.chunks[0]
    assert mcp_gate.credits.balance("acct_a") == 90


# --- batches -------------------------------------------------------------------------------------


def test_batches_are_refused(door: Door, app: App, mcp_gate: Gate, key: str) -> None:
    """S84: unless the resource says otherwise, a batch is 400, be it of one message."""
    for batch in ([call("export")], [message("ping"), call("audit_site", 2)]):
        reply = door.post(batch, key)
        assert (reply.status, reply.json["id"], reply.json["error"]["code"]) == (400, None, -32600)
    assert not app.bodies


@pytest.fixture
def summing(clock: Clock) -> Any:
    """A gate whose resource takes batches."""
    plans = {"standard": {"limits": "5/minute", "per": "account", "monthly_quota": 9}}
    opened = still(
        Gate.open(
            settings(resources=[RESOURCE | {"batches": "sum"}], rules=RULES, plans=plans),
            clock=clock,
        )
    )
    opened.accounts.create("acct_a")
    opened.credits.grant("acct_a", 100)
    yield opened
    opened.close()


BATCH = [call("audit_site", 1), message("ping", 2), call("inspect_page", 3), call("export", "3")]


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ([result(1), result(2), result(3), result("3")], 88),
        ([result(1, isError=True), result(3)], 98),
        ([result(1), message(None, 3, error={}), result("3")], 90),
        ([result(1), result(3), result("3", isError=True)], 88),
        ([result(1, isError=True), result(3, isError=True)], 100),
    ],
)
def test_batches_cost_the_sum(summing: Gate, kind: Any, answer: list[Any], left: int) -> None:
    """O11, O13: a batch costs what is in it, in credits and requests, and fails one by one."""
    door = kind(summing, App().answers(answer))
    key = summing.keys.create("acct_a", "all").text
    reply = door.post(BATCH, key)
    assert (reply["x-ratelimit-remaining"], reply["x-ratelimit-monthly-remaining"]) == ("2", "6")
    assert summing.credits.balance("acct_a") == left
    entries = summing.credits.ledger("acct_a", reasons=["charge", "reversal"])
    assert {one.by.source for one in entries} == {"mcp"}
    assert {(one.by.rule, abs(one.amount)) for one in entries} == {
        ("audit_site", 10),
        ("inspect_page", 2),
    }


@pytest.mark.parametrize("kind", DOORS)
def test_an_error_of_nobody_in_a_batch(summing: Gate, kind: Any) -> None:
    """O11: an error without an id, among other answers, is not that of the one call of a batch."""
    answer = [message(None, None, id=None, error={"code": -32600}), result(2)]
    door = kind(summing, App().answers(answer))
    key = summing.keys.create("acct_a", "all").text
    door.post([message(None, 1, result={}), call("audit_site", 2)], key)
    assert summing.credits.balance("acct_a") == 90


@pytest.mark.parametrize("kind", DOORS)
def test_batches_are_let_in_whole(summing: Gate, kind: Any) -> None:
    """O11, O12: a batch that can't be paid, or is beyond the limit, takes nothing at all."""
    app = App().answers([])
    door = kind(summing, app)
    key = summing.keys.create("acct_a", "all").text
    reply = door.post([call("export", number) for number in range(6)], key)
    assert (reply.status, reply.json["id"]) == (429, None)
    dear = [call("audit_site", number) for number in range(5)]
    summing.store.charge("acct_a", 51, "elsewhere", summing.clock())
    reply = door.post(dear, key)
    assert (reply.status, reply["x-ratelimit-remaining"]) == (402, "5")
    assert summing.credits.balance("acct_a") == 49
    assert summing.credits.check().discrepancies == ()
    assert door.post([call("export", 1), call("export", 1)], key).status == 400
    assert door.post([call("export", 1), call("audit_site", None)], key).status == 400
    assert door.post([message("ping", number) for number in range(101)], key).status == 400
    assert not app.bodies
    narrow = summing.keys.create("acct_a", "narrow", scopes=["tools"]).text
    reply = door.post(BATCH, narrow)
    assert (reply.status, 'scope="seo"' in reply["www-authenticate"]) == (403, True)


# --- reading in parts ----------------------------------------------------------------------------

LINES = ["\r\n", "\n", "\r"]


@given(
    st.lists(st.integers(1, 40), max_size=60),
    st.sampled_from(LINES),
    st.booleans(),
    st.sampled_from([(result(), []), (IS_ERROR, [1]), (ERROR, [1]), (MORE, [1])]),
)
def test_any_parts(
    sizes: list[int], end: str, is_indented: bool, answer: tuple[dict[str, Any], list[int]]
) -> None:
    """O11: a stream says the same however it is cut, whatever ends its lines."""
    said, failed = answer
    text = json.dumps(said, indent=1 if is_indented else None)
    data = end.join(f"data: {line}" for line in text.split("\n"))
    other = f"event: other{end}data: {json.dumps(ERROR)}{end}{end}"
    progress = f": ping{end}id: 3{end}data:{json.dumps(PROGRESS)}{end}{end}"
    stream = f"\ufeff{progress}{other}retry: 5{end}{data}{end}{end}{progress}".encode()
    outcomes = Outcomes.of([1], [(b"Content-Type", b"text/event-stream; charset=utf-8")])
    assert outcomes is not None
    found: list[Any] = []
    for size in sizes:
        found += outcomes.feed(stream[:size])
        stream = stream[size:]
    found += outcomes.feed(stream)
    assert found == failed


def test_an_event_without_end() -> None:
    """O11: no more is held of a stream than one message may have; the next is read again."""
    outcomes = Outcomes.of([1], [(b"content-type", b"text/event-stream")])
    assert outcomes is not None
    tracemalloc.start()
    for _ in range(500):
        assert outcomes.feed(b"data: " + b"x" * 65_536) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_LOOKED_AT
    answer = json.dumps(ERROR).encode()
    assert outcomes.feed(b"\n\ndata: " + answer + b"\n\n") == [1]
