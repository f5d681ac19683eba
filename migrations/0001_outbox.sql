-- The outbox: messages that were committed and are not yet sent.
--
-- A message's way through this file: publish() writes one row in the caller's transaction. A relay reads the heads of the
-- lanes that it holds, hands the messages to the broker, and deletes what the broker confirmed. No row of the outbox is ever
-- updated, so a message costs one insert, one delete and one index entry.
--
-- Locks: none on existing tables. Old code: there is none.
--
-- The word "twinbox" in these files is the schema; "twinbox migrate --schema NAME" puts another name in its place. Every
-- function is taken from the role public: each role is granted what it needs, see "twinbox roles". Tables and the schema are
-- private from the start.

create schema if not exists twinbox;

-- A migration that was applied.
create table twinbox.migration (
  version integer primary key,
  name text not null,
  -- Workers that know this migration or a later one may work on the tables from here on; older ones refuse to start.
  -- Equal to version: the tables have changed in a way that older workers do not stand.
  oldest_worker integer not null check (oldest_worker <= version),
  applied_at timestamptz not null default clock_timestamp()
);

-- The lane of a key, 0 to 63. Nothing else decides which lane a key has, so that publishers in any language agree.
-- Without a search_path of its own, which would keep it from being inlined: what the body names is looked up when the function is
-- created, and each type is exact, so that nothing in another schema can match better.
create function twinbox.lane_of(key text) returns smallint
  language sql immutable strict parallel safe
  return (pg_catalog.hashtextextended(key, 0::bigint) operator(pg_catalog.&) 63::bigint)::smallint;

revoke all on function twinbox.lane_of from public;

-- Whether headers are what publish() lets through, name by name.
create function twinbox.each_header_is_sound(headers json) returns boolean
  language plpgsql immutable strict parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- By what names and values have, not by how the JSON is written; but the text is stored as it is, and ends somewhere.
  return json_typeof(headers) = 'object' and octet_length(headers::text) <= 8 * 16384 and (
    select count(*) <= 64
      and coalesce(sum(octet_length(header.key) + octet_length(header.value)), 0) <= 16384
      and bool_and(
        json_typeof(header.raw) = 'string'
        and octet_length(header.key) between 1 and 100 and header.key !~ '[^A-Za-z0-9!#$%&''*+.^_`|~-]'
        and header.key !~* '^(ce_|cloudevents|twinbox|x-twinbox)'
        and header.key not in ('__proto__', 'CC', 'BCC')
        and header.value !~ E'[\r\n]'
      ) is not false
    from rows from (json_each_text(headers), json_each(headers)) as header (key, value, raw_key, raw)
  );
exception
  -- \u0000, or half a surrogate pair.
  when data_exception then return false;
end
$$;

revoke all on function twinbox.each_header_is_sound from public;

-- Whether headers are what publish() lets through. Whoever has the role of a publisher may insert without publish(), so the
-- tables ask as well: a header of our names would reach a broker as another key or topic than the row's.
--
-- Most headers are short, without escapes, and say none of our names: to ask that first costs 2 us, name by name it costs 17. In
-- 250 bytes no name is too long for a broker, and there are fewer than 64. For the same reason the function has no search_path of
-- its own, and names the schema of each operator instead. A regular expression with a number of repetitions, as [a-z]{1,249},
-- would cost 20 us for each row; one that ignores case costs more than small letters made once. `trace_id` and `device_id` are no
-- names of ours: "ce_" is looked for where a name begins.
create function twinbox.sound_headers(headers text) returns boolean
  language plpgsql immutable strict parallel safe
as $$
declare
  lowered pg_catalog.text := pg_catalog.lower(headers collate pg_catalog."C");
begin
  return pg_catalog.octet_length(headers) operator(pg_catalog.<=) 250
      and headers operator(pg_catalog.~)
        '^\{(?:"[A-Za-z0-9!#$%&''*+.^_`|~-]+":"[^"\\]*",?)*\}$'::pg_catalog.text
      and pg_catalog.strpos(lowered, '"ce_'::pg_catalog.text) operator(pg_catalog.=) 0
      and pg_catalog.strpos(lowered, 'cloudevents'::pg_catalog.text) operator(pg_catalog.=) 0
      and pg_catalog.strpos(lowered, 'twinbox'::pg_catalog.text) operator(pg_catalog.=) 0
      and pg_catalog.strpos(lowered, '__proto__'::pg_catalog.text) operator(pg_catalog.=) 0
      and pg_catalog.strpos(lowered, 'cc"'::pg_catalog.text) operator(pg_catalog.=) 0
    or twinbox.each_header_is_sound(headers::pg_catalog.json);
end
$$;

revoke all on function twinbox.sound_headers from public;

-- What publish() lets through, column by column, for those who insert without it: a row that no relay can read would stop the lanes
-- of that relay. The limits in time and bytes are those of the TypeScript publish, and a little more.
--
-- Domains rather than conditions of the table, which each statement parses and plans anew: 25 to 100 us of each publish. Those of
-- a domain are kept with the session, and an update of other columns does not ask them. Each function that is called here costs a
-- publish a third of a microsecond, though, even where the value is null.
create domain twinbox.lane_number as smallint check (value between 0::smallint and 63::smallint);
-- What is left of it without its sound characters: a third of what a regular expression costs. The commonest stand first, since
-- each character is looked for among them.
create domain twinbox.topic_name as text collate "C" check (
  octet_length(value) <= 249 and value not in ('', '.', '..')
    and ltrim(convert_to(value, 'UTF8'), 'etaoinsrdl.cumphgbyvwf-_kxjqz0123456789ETAOINSRDLCUMPHGBYVWFKXJQZ'::bytea) = ''::bytea
);
create domain twinbox.key_text as text collate "C" check (value <> '' and octet_length(value) <= 255);
create domain twinbox.message_headers as json check (twinbox.sound_headers(value::text));
create domain twinbox.media_type as text check (length(value) <= 100);
-- Times that a relay can read, whatever it is written in.
create domain twinbox.finite_time as timestamptz
  check (value between timestamptz '2000-01-01 00:00:00+00' and timestamptz '9999-01-01 00:00:00+00');
create domain twinbox.byte_count as integer check (value <= 17000000);

-- Whoever may build on a type of ours could hold up its change.
revoke all on type twinbox.lane_number, twinbox.topic_name, twinbox.key_text, twinbox.message_headers, twinbox.media_type,
  twinbox.finite_time, twinbox.byte_count from public;

-- A message to be sent.
create table twinbox.outbox (
  -- The order of insertion, which is the order of sending within a lane. CACHE 1 (the default) matters: with a cache, a
  -- later transaction could draw an earlier number.
  seq bigint not null generated always as identity,
  published_at timestamptz not null default clock_timestamp(),
  id uuid not null,
  -- The lane of the key; any lane for a message without a key.
  lane twinbox.lane_number not null,
  -- How often the broker has refused the message.
  attempt smallint not null default 0,
  -- In bytes, as a relay reads the message: a relay takes a bounded number of bytes at once. On disk the content may be packed
  -- a hundred times as tight, and the packed size is found out only by unpacking.
  size twinbox.byte_count not null generated always as (
    coalesce(octet_length(payload::text), octet_length(body)) + coalesce(octet_length(headers::text), 0)
  ) stored,
  -- After this time the message is a dead letter rather than handled. Null: never.
  expires_at twinbox.finite_time,
  topic twinbox.topic_name not null,
  key twinbox.key_text,
  headers twinbox.message_headers,
  -- json rather than jsonb: what was published goes out byte for byte, "\u0000", 1e400 and long numbers included.
  payload json,
  body bytea,
  content_type twinbox.media_type,
  errors jsonb,
  constraint payload_or_body check ((payload is null) <> (body is null)),
  -- Serves the relay: the heads of its lanes, oldest first. The only index.
  primary key (lane, seq)
) with (
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 50000
);

-- A publisher's dedupe key inside its window, and the id of the message that was published under the key. Apart from the
-- messages: a message is gone in milliseconds, its identity has to be known for days.
create table twinbox.dedupe (
  expires_at timestamptz not null,
  id uuid not null,
  topic text collate "C" not null,
  dedupe_key text collate "C" not null,
  -- A publisher's window, which the publisher says, ends.
  constraint key_and_window check (
    octet_length(dedupe_key) between 1 and 512 and expires_at <= clock_timestamp() + interval '3660 days'
  ),
  primary key (topic, dedupe_key)
) with (
  fillfactor = 90,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000
);

-- Serves the pruning of expired keys. BRIN, since rows come in the order of time: a btree would cost each publish a second
-- index entry for what is read once a minute.
create index dedupe_expires_at on twinbox.dedupe using brin (expires_at) with (autosummarize = on);

-- Refuses to write for others while the tables have policies of row-level security, which ask an owner nothing: what such a policy
-- keeps a publisher from would go in with a dedupe key. One that lets everything through is none, and ours for the roles of single
-- consumers say nothing of what is published.
create function twinbox.refuse_policies() returns void
  language plpgsql stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from pg_class as c
    where c.oid in ('twinbox.outbox'::regclass, 'twinbox.deferred'::regclass) and c.relrowsecurity and (
      select bool_and(coalesce(pg_get_expr(p.polwithcheck, c.oid), pg_get_expr(p.polqual, c.oid)) = 'true')
      from pg_policy as p where p.polrelid = c.oid and p.polcmd in ('*', 'a')
        and not starts_with(coalesce(obj_description(p.oid, 'pg_policy'), ''), 'twinbox consumer ')
    ) is not true
  ) then
    raise exception 'twinbox.publish: no policy of row-level security is asked for a message with a dedupe key or a time'
      using errcode = '42501', hint = 'It is written with the rights of the owner of the tables. Let all publishers through, '
        'or publish without dedupe keys and times.';
  end if;
end
$$;

revoke all on function twinbox.refuse_policies from public;

-- Publishes one message that has a dedupe key, a time or both, and returns its id; or that of another one, which was published
-- under its key inside its window: then nothing is written. Of two transactions with one key, the second waits for the first to
-- end: the unique index decides. The caller has assigned the transaction's id, and woken the relays.
--
-- With its owner's rights: a publisher may neither read the keys of others, which are often numbers of orders, nor change how
-- long they last. And whoever takes a key publishes under it: a key alone would make another publisher's message vanish as a
-- duplicate of nothing. What is written is what a publisher may write, and the tables check it.
create function twinbox.publish_one(
  id uuid,
  topic text,
  key text,
  headers json,
  payload json,
  body bytea,
  content_type text,
  lane smallint,
  dedupe_key text,
  dedupe_window interval,
  due_at timestamptz,
  expires_at timestamptz
) returns uuid
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  taken_by uuid;
begin
  if (select relrowsecurity from pg_class where oid = 'twinbox.outbox'::regclass)
    or (select relrowsecurity from pg_class where oid = 'twinbox.deferred'::regclass) then
    perform twinbox.refuse_policies();
  end if;
  if publish_one.dedupe_key is not null then
    insert into twinbox.dedupe as known (topic, dedupe_key, id, expires_at)
    values (publish_one.topic, publish_one.dedupe_key, publish_one.id, clock_timestamp() + dedupe_window)
    on conflict (topic, dedupe_key) do update set
      id = case when known.expires_at <= clock_timestamp() then excluded.id else known.id end,
      expires_at = case when known.expires_at <= clock_timestamp() then excluded.expires_at else known.expires_at end
    returning known.id into taken_by;
    if taken_by <> publish_one.id then
      return taken_by;
    end if;
  end if;
  if due_at > clock_timestamp() then
    insert into twinbox.deferred (
      due_at, published_at, dedupe_key, id, topic, key, headers, payload, body, content_type, expires_at
    )
    values (
      publish_one.due_at, publish_one.due_at, publish_one.dedupe_key, publish_one.id, publish_one.topic, publish_one.key,
      publish_one.headers, publish_one.payload, publish_one.body, publish_one.content_type, publish_one.expires_at
    );
  else
    insert into twinbox.outbox (lane, id, topic, key, headers, payload, body, content_type, expires_at)
    values (
      coalesce(twinbox.lane_of(publish_one.key), publish_one.lane), publish_one.id, publish_one.topic, publish_one.key,
      publish_one.headers, publish_one.payload, publish_one.body, publish_one.content_type, publish_one.expires_at
    );
  end if;
  return publish_one.id;
end
$$;

revoke all on function twinbox.publish_one from public;

-- The same for many, in one statement. Returns those of other messages' keys: the number of the message among these, from 1 on, and
-- the id of the other one. An empty text is a null.
create function twinbox.publish_many(
  ids uuid[],
  topics text[],
  keys text[],
  headers json[],
  payloads json[],
  bodies bytea[],
  content_types text[],
  first_lane integer,
  dedupe_keys text[],
  dedupe_window interval,
  deliver_at timestamptz[],
  delays_ms float8[],
  expires_at timestamptz[]
) returns table (nr integer, id uuid)
  language plpgsql volatile security definer rows 10
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  -- Asked twice, what comes due in between would go both ways, or neither.
  at timestamptz := clock_timestamp();
begin
  if (select relrowsecurity from pg_class where oid = 'twinbox.outbox'::regclass)
    or (select relrowsecurity from pg_class where oid = 'twinbox.deferred'::regclass) then
    perform twinbox.refuse_policies();
  end if;
  return query
    with m as materialized (
      select m.nr, m.id, m.topic collate "C" as topic, nullif(m.key, '') as key, m.headers, m.payload,
        case when m.payload is null then m.body end as body, nullif(m.content_type, '') as content_type,
        nullif(m.dedupe_key, '') collate "C" as dedupe_key, m.expires_at,
        coalesce(m.deliver_at, at + m.delay_ms * interval '1 millisecond') as due_at
      from unnest(
        ids, topics, keys, headers, payloads, bodies, content_types, dedupe_keys, deliver_at, delays_ms, expires_at
      ) with ordinality as m(
        id, topic, key, headers, payload, body, content_type, dedupe_key, deliver_at, delay_ms, expires_at, nr)
    ),
    known as materialized (
      insert into twinbox.dedupe as known (topic, dedupe_key, id, expires_at)
      select m.topic, m.dedupe_key, m.id, clock_timestamp() + dedupe_window
      from m where m.dedupe_key is not null
      order by m.topic, m.dedupe_key
      on conflict (topic, dedupe_key) do update set
        id = case when known.expires_at <= clock_timestamp() then excluded.id else known.id end,
        expires_at = case when known.expires_at <= clock_timestamp() then excluded.expires_at else known.expires_at end
      returning known.topic, known.dedupe_key, known.id
    ),
    told as materialized (
      select m.*, known.id as known_as from m left join known using (topic, dedupe_key)
    ),
    ready as (
      insert into twinbox.outbox (lane, id, topic, key, headers, payload, body, content_type, expires_at)
      select coalesce(twinbox.lane_of(m.key), ((first_lane + m.nr / 64) % 64)::smallint),
        m.id, m.topic, m.key, m.headers, m.payload, m.body, m.content_type, m.expires_at
      from told as m where (m.known_as <> m.id) is not true and (m.due_at > at) is not true
      order by m.nr
    ),
    later as (
      insert into twinbox.deferred (
        due_at, published_at, dedupe_key, id, topic, key, headers, payload, body, content_type, expires_at
      )
      select m.due_at, m.due_at, m.dedupe_key, m.id, m.topic, m.key, m.headers, m.payload, m.body,
        m.content_type, m.expires_at
      from told as m where (m.known_as <> m.id) is not true and m.due_at > at
      order by m.nr
    )
    select m.nr::int, m.known_as from told as m where m.known_as <> m.id;
end
$$;

revoke all on function twinbox.publish_many from public;

-- A UUID version 7 (RFC 9562), for publishers in SQL. Postgres has its own from 18 on.
create function twinbox.new_id() returns uuid
  language sql volatile parallel safe
  set search_path = pg_catalog, pg_temp
  return encode(
    set_bit(set_bit(
      overlay(
        uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000::numeric)::bigint) from 3)
        from 1 for 6
      ), 52, 1), 53, 1),
    'hex')::uuid;

revoke all on function twinbox.new_id from public;

-- Publishes a message in the current transaction, for triggers, psql and services in other languages.
--
-- Exactly one of payload and body is given. With deliver_at or delay the message is sent when that time has come; it is not
-- handled after expires_at. A second publish of the same topic and dedupe_key inside dedupe_window writes nothing and returns
-- the id of the first, with duplicate = true. Raises SQLSTATE 22023 for bad input, by the limits of the TypeScript publish:
-- test/publish.test.ts compares the two.
create function twinbox.publish(
  topic text,
  payload json default null,
  key text default null,
  headers json default null,
  dedupe_key text default null,
  dedupe_window interval default '7 days',
  body bytea default null,
  content_type text default null,
  deliver_at timestamptz default null,
  delay interval default null,
  expires_at timestamptz default null,
  out id uuid,
  out duplicate boolean
)
  language plpgsql volatile
  set search_path = twinbox, pg_temp
as $$
#variable_conflict use_column
declare
  new_id uuid := new_id();
  due_at timestamptz := coalesce(publish.deliver_at, clock_timestamp() + publish.delay);
  latest timestamptz := clock_timestamp() + interval '3650 days';
  any_lane smallint := floor(random() * 64::float8)::smallint;
begin
  if topic is null or octet_length(topic) not between 1 and 249 or topic ~ '[^A-Za-z0-9._-]' or topic in ('.', '..') then
    raise exception 'twinbox.publish: topic must be 1 to 249 characters of A-Z a-z 0-9 . _ -' using errcode = '22023';
  end if;
  if (payload is null) = (body is null) then
    raise exception 'twinbox.publish: give either payload or body' using errcode = '22023',
      hint = 'For a message that has nothing to say, the payload is ''null''::json.';
  end if;
  if coalesce(octet_length(payload::text), octet_length(body)) > 1048576 then
    raise exception 'twinbox.publish: the payload has more than 1048576 bytes, the limit' using errcode = '22023';
  end if;
  if key = '' or octet_length(key) > 255 then
    raise exception 'twinbox.publish: key must have 1 to 255 bytes, or be null' using errcode = '22023';
  end if;
  if dedupe_key = '' or octet_length(dedupe_key) > 512 then
    raise exception 'twinbox.publish: dedupe_key must have 1 to 512 bytes, or be null' using errcode = '22023';
  end if;
  if dedupe_key is not null
    and (dedupe_window between interval '1 second' and interval '3650 days') is not true then
    raise exception 'twinbox.publish: dedupe_window must be between 1 second and 3650 days' using errcode = '22023';
  end if;
  if content_type is not null and (
    case when body is null then content_type <> 'application/json'
      else length(content_type) > 100
        or content_type !~ '^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *; *[!-:<-~]+)*$'
    end
  ) then
    raise exception 'twinbox.publish: content_type must be a media type of at most 100 characters, and goes with body'
      using errcode = '22023';
  end if;
  if not each_header_is_sound(headers) then
    raise exception 'twinbox.publish: headers must be a JSON object of at most 64 strings and 16384 bytes'
      using errcode = '22023', hint = 'Names are 1 to 100 characters of HTTP header names and not ours (ce_, '
        'cloudevents, twinbox), nor CC and BCC, which are RabbitMQ''s; values have no line breaks.';
  end if;

  if publish.deliver_at is not null and publish.delay is not null then
    raise exception 'twinbox.publish: give either deliver_at or delay' using errcode = '22023';
  end if;
  if publish.delay < interval '0' or due_at > latest or due_at = '-infinity' then
    raise exception 'twinbox.publish: deliver_at and delay must end within 3650 days, and delay may not be negative'
      using errcode = '22023';
  end if;
  if publish.expires_at <= greatest(clock_timestamp(), due_at) or publish.expires_at > latest then
    raise exception 'twinbox.publish: expires_at must be within 3650 days, and after the message can be sent'
      using errcode = '22023';
  end if;
  -- The transaction's id is assigned before the row's seq is drawn. The relay's lower bound depends on it: see
  -- src/lanes/watermark.ts.
  perform pg_current_xact_id();
  -- Relays that sleep are woken, and none falls asleep before this is committed: see src/database/sql/sleep.ts. Not while the
  -- server's queue of notifications fills up behind somebody: full, it would fail the commit.
  perform pg_notify(current_schema(), '')
  where case when pg_try_advisory_xact_lock_shared('migration'::regclass::oid::int, hashtext('')) then false
    else pg_notification_queue_usage() < 0.5::float8 end;

  if publish.body is not null then
    content_type := coalesce(publish.content_type, 'application/octet-stream');
  else
    content_type := null;
  end if;
  if publish.dedupe_key is null and due_at is null then
    id := new_id;
    insert into outbox (lane, id, topic, key, headers, payload, body, content_type, expires_at)
    values (
      coalesce(lane_of(publish.key), any_lane),
      new_id, publish.topic, publish.key, publish.headers, publish.payload, publish.body, publish.content_type,
      publish.expires_at
    );
  else
    id := publish_one(
      new_id, publish.topic, publish.key, publish.headers, publish.payload, publish.body, publish.content_type,
      any_lane, publish.dedupe_key, dedupe_window, due_at, publish.expires_at
    );
  end if;
  duplicate := publish.id <> new_id;
end
$$;

revoke all on function twinbox.publish from public;

insert into twinbox.migration (version, name, oldest_worker) values (1, 'outbox', 1);
