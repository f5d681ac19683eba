-- twinbox.publish refuses the headers CC and BCC too, by which RabbitMQ sends copies elsewhere: it wants lists there, and a
-- text makes it close the channel. All else in the function is as it was.
--
-- Locks: none on tables. Old code can run beside it.

create or replace function twinbox.publish(
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
  sound boolean;
  due_at timestamptz := coalesce(publish.deliver_at, clock_timestamp() + publish.delay);
  latest timestamptz := clock_timestamp() + interval '3650 days';
begin
  if topic is null or topic !~ '^[A-Za-z0-9._-]{1,249}$' or topic in ('.', '..') then
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
        or content_type !~ E'^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *; *[^\\s;[:cntrl:]]+)*$'
    end
  ) then
    raise exception 'twinbox.publish: content_type must be a media type of at most 100 characters, and goes with body'
      using errcode = '22023';
  end if;
  if headers is not null then
    begin
      select json_typeof(headers) = 'object' and octet_length(headers::text) <= 16384 and count(*) <= 64
        and bool_and(
          json_typeof(header.raw) = 'string'
          and header.key ~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$'
          and header.key !~* '^(ce_|cloudevents|twinbox|x-twinbox|__proto__$)'
          and header.key not in ('CC', 'BCC')
          and header.value !~ E'[\r\n]'
        ) is not false
      into sound
      from rows from (json_each_text(headers), json_each(headers)) as header (key, value, raw_key, raw);
    exception
      -- No object, \u0000, or half a surrogate pair.
      when data_exception then sound := false;
    end;
    if not sound then
      raise exception 'twinbox.publish: headers must be a JSON object of at most 64 strings and 16384 bytes'
        using errcode = '22023', hint = 'Names are 1 to 100 characters of HTTP header names and not ours (ce_, '
          'cloudevents, twinbox), nor CC and BCC, which are RabbitMQ''s; values have no line breaks.';
    end if;
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
  -- src/leases/floor.ts.
  perform pg_current_xact_id();
  -- Relays that sleep are woken, and none falls asleep before this is committed: see src/database/sql/sleep.ts.
  perform pg_notify(current_schema(), '')
  where not pg_try_advisory_xact_lock_shared('migration'::regclass::oid::int, hashtext(''));

  id := new_id;
  duplicate := false;
  if publish.dedupe_key is not null then
    insert into dedupe as known (topic, dedupe_key, id, expires_at)
    values (publish.topic, publish.dedupe_key, new_id, clock_timestamp() + dedupe_window)
    on conflict (topic, dedupe_key) do update set
      id = case when known.expires_at <= clock_timestamp() then excluded.id else known.id end,
      expires_at = case when known.expires_at <= clock_timestamp() then excluded.expires_at else known.expires_at end
    returning known.id into publish.id;
    duplicate := publish.id <> new_id;
  end if;
  if publish.body is not null then
    content_type := coalesce(publish.content_type, 'application/octet-stream');
  else
    content_type := null;
  end if;
  if duplicate then
    return;
  elsif due_at > clock_timestamp() then
    insert into deferred (
      due_at, published_at, dedupe_key, id, topic, key, headers, payload, body, content_type, expires_at
    )
    values (
      due_at, due_at, publish.dedupe_key, new_id, publish.topic, publish.key, publish.headers, publish.payload,
      publish.body, publish.content_type, publish.expires_at
    );
  else
    insert into outbox (lane, id, topic, key, headers, payload, body, content_type, expires_at)
    values (
      coalesce(lane_of(publish.key), floor(random() * 64)::smallint),
      new_id, publish.topic, publish.key, publish.headers, publish.payload, publish.body, publish.content_type,
      publish.expires_at
    );
  end if;
end
$$;

insert into twinbox.migration (version, name) values (7, 'routing');
