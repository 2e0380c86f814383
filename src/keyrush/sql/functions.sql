-- What a limiter's ledger does on PostgreSQL, and a charge, each in one call. Here
-- `keyrush/core/sliding.py` is restated, in the same integer arithmetic, and of
-- `keyrush/core/ledger.py` the charge; tests hold them equal. A counter is an array of its period,
-- current and previous. Instants are Unix milliseconds; where `at` is null, the server's.

CREATE OR REPLACE FUNCTION keyrush_now() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- Whoever changes counters holds the locks of their keys until the transaction ends. No row need
-- exist for that. All take them in one order, so that no two wait for each other for ever.
CREATE OR REPLACE FUNCTION keyrush_lock(keys text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(ordered.number)
    FROM (
        SELECT hashtextextended(named.key, 0) AS number FROM unnest(keys) AS named (key) ORDER BY 1
    ) AS ordered;
END
$$;

-- `sliding.roll`
CREATE OR REPLACE FUNCTION keyrush_roll(counter bigint[], period bigint) RETURNS bigint[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN counter[1] IN (period, period + 1) THEN counter
        WHEN counter[1] = period - 1 THEN ARRAY[period, 0, counter[2]]
        ELSE ARRAY[period, 0, 0]
    END
$$;

-- `sliding.used`, of a counter that has been rolled
CREATE OR REPLACE FUNCTION keyrush_used(counter bigint[], length bigint, now bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT counter[2] + counter[3] * CASE
        WHEN counter[1] > now / length THEN length
        ELSE length - now % length
    END / length
$$;

CREATE OR REPLACE FUNCTION keyrush_counter(its_key text) RETURNS bigint[]
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT ARRAY[stored.period, stored.current, stored.previous]
        FROM keyrush_windows AS stored WHERE stored.key = its_key
    );
END
$$;

-- An upsert even where a row was seen: `keyrush_enlist` may have deleted it since.
CREATE OR REPLACE FUNCTION keyrush_put(its_key text, length bigint, counter bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO keyrush_windows (key, period, current, previous, idle_at)
    VALUES (its_key, counter[1], counter[2], counter[3], (counter[1] + 2) * length)
    ON CONFLICT (key) DO UPDATE SET
        period = excluded.period,
        current = excluded.current,
        previous = excluded.previous,
        idle_at = excluded.idle_at;
END
$$;

-- `sliding.grant_together`, of parts that have so many windows each. Returns now, and for each part
-- what was granted and the counter of each window.
CREATE OR REPLACE FUNCTION keyrush_take(
    keys text[], lengths bigint[], amounts bigint[],
    sizes bigint[], costs bigint[], extras bigint[], share bigint, at bigint
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    now bigint;
    counter bigint[];
    answer bigint[];
    room bigint;
    rooms bigint[] := '{}';
    granted bigint;
    refused boolean := false;
    i integer := 0;  -- the window
    place integer := 1;  -- in the answer
BEGIN
    IF 0 < ANY (costs || extras) THEN
        PERFORM keyrush_lock(keys);
    END IF;
    now := coalesce(at, keyrush_now());  -- not before the locks are held, or time could run back
    answer := ARRAY[now];
    FOR part IN 1 .. cardinality(sizes) LOOP
        place := place + 1;
        answer[place] := 0;
        room := NULL;
        FOR its IN 1 .. sizes[part] LOOP
            i := i + 1;
            counter := keyrush_roll(keyrush_counter(keys[i]), now / lengths[i]);
            answer[place + 1] := counter[1];  -- in place: a concatenation would copy it all
            answer[place + 2] := counter[2];
            answer[place + 3] := counter[3];
            place := place + 3;
            room := least(room, amounts[i] - keyrush_used(counter, lengths[i], now));
        END LOOP;
        rooms := rooms || coalesce(room, 0);
        refused := refused OR (costs[part] > 0 AND rooms[part] < costs[part]);
    END LOOP;
    IF refused THEN
        RETURN answer;
    END IF;
    i := 0;
    place := 1;
    FOR part IN 1 .. cardinality(sizes) LOOP
        place := place + 1;
        granted := costs[part]
            + least(extras[part], greatest(0, rooms[part] - costs[part]) / share);
        answer[place] := granted;
        FOR its IN 1 .. sizes[part] LOOP
            i := i + 1;
            IF granted > 0 THEN
                answer[place + 2] := answer[place + 2] + granted;
                PERFORM keyrush_put(keys[i], lengths[i], answer[place + 1 : place + 3]);
            END IF;
            place := place + 3;
        END LOOP;
    END LOOP;
    RETURN answer;
END
$$;

-- `sliding.give_back`, for each window of each part.
CREATE OR REPLACE FUNCTION keyrush_give_back(
    keys text[], lengths bigint[], sizes bigint[], costs bigint[], instants bigint[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    counter bigint[];
    cost bigint;
    most bigint;
    taken_in bigint;
    i integer := 0;
BEGIN
    PERFORM keyrush_lock(keys);
    FOR part IN 1 .. cardinality(sizes) LOOP
        cost := costs[part];
        FOR its IN 1 .. sizes[part] LOOP
            i := i + 1;
            taken_in := instants[part] / lengths[i];
            most := 9007199254740992 / lengths[i];  -- `sliding.most`
            counter := keyrush_counter(keys[i]);
            IF cost < 0 AND coalesce(counter[1] < taken_in, true) THEN
                counter := keyrush_roll(counter, taken_in);
            END IF;
            IF counter[1] <= taken_in THEN
                counter[2] := least(most, greatest(0, counter[2] - cost));
            ELSIF counter[1] = taken_in + 1 THEN
                counter[3] := least(most, greatest(0, counter[3] - cost));
            ELSE
                CONTINUE;  -- there is none, or the take counts no more
            END IF;
            PERFORM keyrush_put(keys[i], lengths[i], counter);
        END LOOP;
    END LOOP;
END
$$;

-- As an older keyrush asks (schema 4 to 7), which goes on beside this one: it takes of the same.
CREATE OR REPLACE FUNCTION keyrush_take(
    keys text[], lengths bigint[], amounts bigint[],
    cost bigint, extra bigint, share bigint, at bigint
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    answer bigint[] := keyrush_take(
        keys, lengths, amounts,
        ARRAY[cardinality(keys)]::bigint[], ARRAY[cost], ARRAY[extra], share, at
    );
BEGIN
    RETURN ARRAY[answer[2], answer[1]] || answer[3:];
END
$$;

CREATE OR REPLACE FUNCTION keyrush_give_back(
    keys text[], lengths bigint[], cost bigint, taken_at bigint
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM keyrush_give_back(
        keys, lengths, ARRAY[cardinality(keys)]::bigint[], ARRAY[cost], ARRAY[taken_at]
    );
END
$$;

-- `Ledger.enlist`. Returns the rank and the number of workers, and forgets idle counters. Its own
-- row comes first, and what others hold is left to them, so that nobody waits for a second row.
CREATE OR REPLACE FUNCTION keyrush_enlist(worker text, ttl bigint, swept bigint, at bigint)
RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    now bigint := coalesce(at, keyrush_now());
BEGIN
    INSERT INTO keyrush_workers (id, seen_at) VALUES (worker, now)
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at;
    DELETE FROM keyrush_workers WHERE id IN (
        SELECT gone.id FROM keyrush_workers AS gone
        WHERE abs(now - gone.seen_at) >= ttl FOR UPDATE SKIP LOCKED
    );
    DELETE FROM keyrush_windows WHERE key IN (
        SELECT idle.key FROM keyrush_windows AS idle
        WHERE idle.idle_at <= now LIMIT swept FOR UPDATE SKIP LOCKED
    );
    RETURN (
        SELECT ARRAY[count(*) FILTER (WHERE at_work.id < worker COLLATE "C"), count(*)]
        FROM keyrush_workers AS at_work WHERE abs(now - at_work.seen_at) < ttl
    );
END
$$;

-- Schema 4 to 6 had another.
DROP FUNCTION IF EXISTS keyrush_charge(text, bigint, text, bigint);

-- `Store.charge`: `ledger.settle`, then `ledger.post` of a charge. What changes an account's ledger
-- comes one after the other, from its row's lock on.
CREATE OR REPLACE FUNCTION keyrush_charge(
    its_account text, credits bigint, its_reference text, its_at bigint,
    its_source text, its_credential text, its_subject text, its_rule text, its_request text,
    its_month text, refill bigint, ends_at bigint
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    held record;
    lot record;
    is_settled boolean := true;
    is_known boolean;
    is_refused boolean;
    wanted bigint := credits;
    part bigint;
    parts jsonb := '[]';
BEGIN
    SELECT known.balance, known.entries, known.refilled, known.next_expiry INTO held
    FROM keyrush_accounts AS known WHERE known.id = its_account FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    IF held.next_expiry <= its_at THEN
        FOR lot IN
            SELECT ended.remaining FROM keyrush_lots AS ended
            WHERE ended.account_id = its_account AND ended.expires_at <= its_at
            AND ended.remaining > 0
            ORDER BY ended.expires_at, ended.number
        LOOP
            held.entries := held.entries + 1;
            held.balance := held.balance - lot.remaining;
            INSERT INTO keyrush_ledger (account_id, number, at, amount, balance, reason, source)
            VALUES (
                its_account, held.entries, its_at, -lot.remaining, held.balance, 'expiry', 'system'
            );
        END LOOP;
        DELETE FROM keyrush_lots AS ended
        WHERE ended.account_id = its_account AND ended.expires_at <= its_at;
        is_settled := false;
    END IF;
    IF coalesce(held.refilled, '') COLLATE "C" < its_month COLLATE "C" THEN
        held.entries := held.entries + 1;
        held.balance := held.balance + refill;
        held.refilled := its_month;
        INSERT INTO keyrush_ledger (
            account_id, number, at, amount, balance, reason, reference, source, expires_at
        ) VALUES (
            its_account, held.entries, its_at, refill, held.balance, 'refill',
            'refill:' || its_month, 'system', ends_at
        );
        IF ends_at IS NOT NULL THEN
            INSERT INTO keyrush_lots (account_id, number, expires_at, remaining)
            VALUES (its_account, held.entries, ends_at, refill);
        END IF;
        is_settled := false;
    END IF;
    IF NOT is_settled THEN
        held.next_expiry := (
            SELECT min(open.expires_at) FROM keyrush_lots AS open
            WHERE open.account_id = its_account
        );
    END IF;

    is_refused := credits > 0 AND EXISTS (
        SELECT FROM keyrush_ledger AS known
        WHERE known.account_id = its_account AND known.reverses = its_reference
    );
    is_known := is_refused OR credits = 0 OR EXISTS (
        SELECT FROM keyrush_ledger AS known
        WHERE known.account_id = its_account AND known.reference = its_reference
    );
    IF NOT is_known AND held.balance < credits THEN
        is_refused := true;
    ELSIF NOT is_known THEN
        IF held.next_expiry IS NOT NULL THEN
            FOR lot IN
                SELECT open.number, open.remaining FROM keyrush_lots AS open
                WHERE open.account_id = its_account AND open.remaining > 0
                ORDER BY open.expires_at, open.number
            LOOP
                part := least(lot.remaining, wanted);
                UPDATE keyrush_lots AS open SET remaining = open.remaining - part
                WHERE open.account_id = its_account AND open.number = lot.number;
                parts := parts || jsonb_build_array(jsonb_build_array(lot.number, part));
                wanted := wanted - part;
                EXIT WHEN wanted = 0;
            END LOOP;
        END IF;
        held.entries := held.entries + 1;
        held.balance := held.balance - credits;
        INSERT INTO keyrush_ledger (
            account_id, number, at, amount, balance, reason, reference,
            source, credential_id, subject, rule, request_id, taken
        ) VALUES (
            its_account, held.entries, its_at, -credits, held.balance, 'charge', its_reference,
            its_source, its_credential, its_subject, its_rule, its_request,
            nullif(parts, '[]')::text
        );
        is_settled := false;
    END IF;

    IF NOT is_settled THEN
        UPDATE keyrush_accounts AS known SET
            balance = held.balance,
            entries = held.entries,
            refilled = held.refilled,
            next_expiry = held.next_expiry
        WHERE known.id = its_account;
    END IF;
    RETURN CASE WHEN NOT is_refused THEN held.balance END;
END
$$;

-- An older keyrush that goes on beside this one changes balances alone, and so does a slip of SQL.
CREATE OR REPLACE FUNCTION keyrush_refuse_balance() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a balance changes with its ledger' USING ERRCODE = 'check_violation';
END
$$;

DROP TRIGGER IF EXISTS keyrush_balance_has_entry ON keyrush_accounts;
CREATE TRIGGER keyrush_balance_has_entry BEFORE UPDATE OF balance ON keyrush_accounts
FOR EACH ROW WHEN (new.balance <> old.balance AND new.entries = old.entries)
EXECUTE FUNCTION keyrush_refuse_balance();

-- `SlotLedger.renew`: the lease of a process, with which all goes that it holds. Returns whether it
-- had not ended, and who else has one. What others are at is left to them, as in `keyrush_enlist`.
CREATE OR REPLACE FUNCTION keyrush_slot_lease(
    worker text, retired text[], lease bigint, at bigint
) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    now bigint := coalesce(at, keyrush_now());
    was_there boolean;
BEGIN
    UPDATE keyrush_slot_workers SET seen_at = now
    WHERE id = worker AND abs(now - seen_at) < lease;
    was_there := FOUND;
    DELETE FROM keyrush_slot_workers WHERE id IN (
        SELECT gone.id FROM keyrush_slot_workers AS gone
        WHERE abs(now - gone.seen_at) >= lease OR gone.id = ANY (retired) FOR UPDATE SKIP LOCKED
    );
    IF NOT was_there THEN
        INSERT INTO keyrush_slot_workers (id, seen_at) VALUES (worker, now)
        ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at;
    END IF;
    RETURN ARRAY[was_there::text] || ARRAY(SELECT at_work.id::text FROM keyrush_slot_workers AS at_work);
END
$$;

-- `SlotCall`. Returns which of the wanted there was no slot for, from 0, or -1.
CREATE OR REPLACE FUNCTION keyrush_take_slots(
    its_worker text, changed text[], counts bigint[], wanted text[], most bigint[]
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    PERFORM keyrush_lock(changed || wanted);
    FOR i IN 1 .. cardinality(changed) LOOP
        PERFORM keyrush_hold(its_worker, changed[i], counts[i]);
    END LOOP;
    FOR i IN 1 .. cardinality(wanted) LOOP
        SELECT coalesce(sum(held.slots), 0) INTO taken
        FROM keyrush_slots AS held WHERE held.key = wanted[i];
        IF taken >= most[i] THEN
            RETURN ARRAY[i - 1];
        END IF;
    END LOOP;
    FOR i IN 1 .. cardinality(wanted) LOOP
        PERFORM keyrush_hold(its_worker, wanted[i], 1);
    END LOOP;
    RETURN ARRAY[-1];
END
$$;

CREATE OR REPLACE FUNCTION keyrush_hold(its_worker text, its_key text, more bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE keyrush_slots SET slots = slots + more WHERE key = its_key AND worker = its_worker;
    IF NOT FOUND AND more > 0 THEN
        INSERT INTO keyrush_slots (key, worker, slots) VALUES (its_key, its_worker, more);
    ELSIF more < 0 THEN
        DELETE FROM keyrush_slots WHERE key = its_key AND worker = its_worker AND slots <= 0;
    END IF;
END
$$;
