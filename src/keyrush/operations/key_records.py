"""The keys of an account as people look for them, and what was done to each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from keyrush.core.checks import is_id, refuse_keys
from keyrush.core.key_search import MOST, Hits, Outline, Search, found_in, outline_of
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import ApiKey
from keyrush.core.paging import place_of
from keyrush.operations.ids import known_id
from keyrush.operations.keys import Keys
from keyrush.store.edits import Value, What
from keyrush.store.opening import keeps_edits
from keyrush.store.protocol import Store

#: Keys that are read at once from a store that knows no outlines.
_AT_ONCE = 100


class Record(NamedTuple):
    """What was done to a key, and by whom: the id of a key or of a link, or a text that begins with
    `store.decisions.OWNER`; None is the operator.

    `changes` are by field, each as it was and as it has become. Of a key that was made in place
    of another `predecessor` is an id, of one that was replaced `successor`.
    """

    at: int  #: Unix milliseconds
    what: What
    by: str | None
    changes: Mapping[str, tuple[Value, Value]]


class KeyRecords:
    """What is known of keys beside what they may do, over a store."""

    def __init__(
        self, store: Store, keys: Keys, *, key_format: KeyFormat, clock: Callable[[], int]
    ) -> None:
        self._store = store
        self._keys = keys
        self._format = key_format
        self._clock = clock

    def search(self, account_id: str, search: Search) -> Hits:
        """The keys of an account that are looked for, a page of them, among the newest 10,000.

        Raises:
            NotFound: The id can't be an account's. One that is unknown has no keys.
            InvalidArgument: The text holds a key.
        """
        refuse_keys(self._format, account=account_id, text=search.text)
        return found_in(self._outlines(known_id(account_id)), search, self._clock())

    def _outlines(self, account_id: str) -> Sequence[Outline]:
        if keeps_edits(self._store):
            return self._store.outlines(account_id, MOST)
        found: list[ApiKey] = []
        while len(found) < MOST and (
            more := self._store.keys(account_id, _AT_ONCE, place_of(found[-1]) if found else None)
        ):
            found += more
        return [outline_of(key) for key in found]

    def outlines(self, account_id: str, among: Collection[str] | None = None) -> Sequence[Outline]:
        """The keys of an account in short, the newest 10,000; with `among` those with these ids.

        Raises:
            NotFound: The id can't be an account's. One that is unknown has no keys.
            InvalidArgument: A key is given where an id belongs.
        """
        refuse_keys(self._format, account=account_id, key=among)
        if among is None:
            return self._outlines(known_id(account_id))
        ids = [one for one in {*among} if is_id(one)]
        if keeps_edits(self._store):
            return self._store.outlines(known_id(account_id), MOST, ids)
        keys = [self._store.key(one) for one in ids]
        return [outline_of(key) for key in keys if key is not None and key.account_id == account_id]

    def history(self, key_id: str, account_id: str | None = None) -> Sequence[Record]:
        """What was done to a key, newest first: when it was made, and of all else the last 100.

        Raises:
            NotFound: There is none, or it is another account's.
        """
        key = self._keys.get(key_id, account_id)
        events = self._store.key_events(key.id) if keeps_edits(self._store) else ()
        records = [Record(*event) for event in events]
        if not any(record.what == "created" for record in records):
            records.append(Record(key.created_at, "created", key.created_by, {}))
        return records
