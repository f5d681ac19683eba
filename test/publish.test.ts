import fc from 'fast-check'
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createOutbox, TwinboxError, type NewMessage } from '../src/index.ts'
import { limits, numberOptions } from '../src/base/options.ts'
import { fuzzSeed } from './support/fuzz.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/**
 * A message is published by TypeScript or by the SQL function, and the two have to let through and refuse the same: the
 * limits stand in src/base/options.ts and src/message/check.ts, and once more in the function, which is plain SQL.
 */

let database: TestDatabase
let client: pg.PoolClient
beforeAll(async () => {
  database = await createTestDatabase()
  client = await database.pool.connect()
  // Ten years from now are as many hours as in TypeScript, whenever clocks are put forward.
  await client.query(`set timezone = 'UTC'; begin`)
})
afterAll(async () => {
  await client.query('rollback')
  client.release()
  await database.drop()
})

/** What both are given. */
interface Input extends Partial<NewMessage> {
  readonly dedupeWindowMs?: number
}

interface Verdict {
  readonly accepted: boolean
  readonly why: string
}

async function byTypeScript({ dedupeWindowMs, ...message }: Input): Promise<Verdict> {
  try {
    await createOutbox({ dedupeWindowMs }).publish(client, { topic: 't', payload: 1, ...message })
    return { accepted: true, why: '' }
  } catch (error) {
    // Anything else is an error that comes after the checks, and leaves the transaction of the caller broken.
    if (!(error instanceof TwinboxError)) throw error
    return { accepted: false, why: error.message }
  }
}

async function bySql(input: Input): Promise<Verdict> {
  const { topic = 't', key, payload = 1, headers, dedupeKey, dedupeWindowMs, contentType } = input
  const ms = (time: number | undefined): string | null => (time === undefined ? null : `${time} ms`)
  const isBytes = payload instanceof Uint8Array
  try {
    await client.query(
      `select twinbox.publish($1, payload => $2::json, body => $3, key => $4, headers => $5::json, dedupe_key => $6,
        dedupe_window => coalesce($7::interval, '7 days'), content_type => $8, deliver_at => $9, delay => $10, expires_at => $11)`,
      [
        topic,
        isBytes ? null : JSON.stringify(payload),
        isBytes ? Buffer.from(payload) : null,
        key ?? null,
        headers === undefined ? null : JSON.stringify(headers),
        dedupeKey ?? null,
        ms(dedupeWindowMs),
        contentType ?? null,
        input.deliverAt?.toISOString() ?? null,
        ms(input.delayMs),
        input.expiresAt?.toISOString() ?? null,
      ],
    )
    return { accepted: true, why: '' }
  } catch (error) {
    const { code, message } = error as pg.DatabaseError
    // 22021: a text with a NUL does not even reach the function.
    if (code !== '22023' && code !== '22021') throw error
    return { accepted: false, why: message }
  }
}

/** The verdicts of both, each on a transaction as it was before. */
async function verdicts(input: Input): Promise<{ typeScript: Verdict; sql: Verdict }> {
  await client.query('savepoint before')
  const typeScript = await byTypeScript(input)
  await client.query('rollback to savepoint before')
  const sql = await bySql(input)
  await client.query('rollback to savepoint before; release savepoint before')
  return { typeScript, sql }
}

const text = (length: number): string => 'x'.repeat(length)
const bytes = (length: number): Uint8Array => new Uint8Array(length)
const headers = (count: number): Record<string, string> =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`h${index}`, '']))
const ago = (ms: number): Date => new Date(Date.now() - ms)
const ahead = (ms: number): Date => new Date(Date.now() + ms)
const minute = 60_000
const { maxPayloadBytes, dedupeWindowMs } = numberOptions
const window = (ms: number): Input => ({ dedupeKey: 'd', dedupeWindowMs: ms })
/** Of two bytes. */
const ü = (size: number): string => 'ü'.repeat(size / 2) + 'x'.repeat(size % 2)

describe('at each limit both accept, and one beyond it both refuse', () => {
  const table: readonly (readonly [limit: string, most: Input, beyond: Input, said?: number])[] = [
    [
      'topic, characters',
      { topic: text(limits.topicLength) },
      { topic: text(limits.topicLength + 1) },
      limits.topicLength,
    ],
    ['topic, at least one', { topic: 'x' }, { topic: '' }],
    ['key, bytes', { key: text(limits.keyBytes) }, { key: text(limits.keyBytes + 1) }, limits.keyBytes],
    [
      'key, bytes of other letters',
      { key: ü(limits.keyBytes) },
      { key: ü(limits.keyBytes + 1) },
      limits.keyBytes,
    ],
    ['key, at least one', { key: 'x' }, { key: '' }],
    [
      'dedupe key, bytes',
      { dedupeKey: text(limits.dedupeKeyBytes) },
      { dedupeKey: text(limits.dedupeKeyBytes + 1) },
      limits.dedupeKeyBytes,
    ],
    [
      'dedupe key, bytes of other letters',
      { dedupeKey: ü(limits.dedupeKeyBytes) },
      { dedupeKey: ü(limits.dedupeKeyBytes + 1) },
      limits.dedupeKeyBytes,
    ],
    ['dedupe key, at least one', { dedupeKey: 'x' }, { dedupeKey: '' }],
    ['dedupe window, longest', window(dedupeWindowMs.max), window(dedupeWindowMs.max + 1)],
    ['dedupe window, shortest', window(dedupeWindowMs.min), window(dedupeWindowMs.min - 1)],
    // Two bytes are its quotation marks.
    [
      'payload, bytes of JSON',
      { payload: text(maxPayloadBytes.default - 2) },
      { payload: text(maxPayloadBytes.default - 1) },
      maxPayloadBytes.default,
    ],
    [
      'payload, bytes',
      { payload: bytes(maxPayloadBytes.default) },
      { payload: bytes(maxPayloadBytes.default + 1) },
      maxPayloadBytes.default,
    ],
    [
      'headers, count',
      { headers: headers(limits.headerCount) },
      { headers: headers(limits.headerCount + 1) },
      limits.headerCount,
    ],
    [
      'header, characters of the name',
      { headers: { [text(limits.headerNameLength)]: '' } },
      { headers: { [text(limits.headerNameLength + 1)]: '' } },
    ],
    ['header, at least one', { headers: { x: '' } }, { headers: { '': '' } }],
    [
      'headers, bytes',
      { headers: { a: text(limits.headersBytes - 1) } },
      { headers: { a: text(limits.headersBytes) } },
      limits.headersBytes,
    ],
    [
      'headers, bytes of many',
      { headers: { a: ü(8190), b: ü(8192) } },
      { headers: { a: ü(8190), b: ü(8193) } },
      limits.headersBytes,
    ],
    // As JSON, each is six bytes.
    [
      'headers, bytes that JSON escapes',
      { headers: { a: '\u0001'.repeat(limits.headersBytes - 1) } },
      { headers: { a: '\u0001'.repeat(limits.headersBytes) } },
    ],
    [
      'content type, characters',
      { payload: bytes(1), contentType: `a/${text(limits.contentTypeLength - 2)}` },
      { payload: bytes(1), contentType: `a/${text(limits.contentTypeLength - 1)}` },
      limits.contentTypeLength,
    ],
    ['delay', { delayMs: limits.aheadMs }, { delayMs: limits.aheadMs + 1000 }],
    ['delay, shortest', { delayMs: 0 }, { delayMs: -1 }],
    [
      'delivery',
      { deliverAt: ahead(limits.aheadMs - minute) },
      { deliverAt: ahead(limits.aheadMs + minute) },
    ],
    [
      'expiry, latest',
      { expiresAt: ahead(limits.aheadMs - minute) },
      { expiresAt: ahead(limits.aheadMs + minute) },
    ],
    ['expiry, earliest', { expiresAt: ahead(minute) }, { expiresAt: ago(1) }],
    [
      'expiry, after the delivery',
      { deliverAt: ahead(minute), expiresAt: ahead(2 * minute) },
      { deliverAt: ahead(2 * minute), expiresAt: ahead(minute) },
    ],
    [
      'expiry, after the delay',
      { delayMs: minute, expiresAt: ahead(2 * minute) },
      { delayMs: 2 * minute, expiresAt: ahead(minute) },
    ],
  ]

  const rows = table.map(([limit, most, beyond, said]) => ({ limit, most, beyond, said }))
  test.each(rows)('$limit', async ({ most, beyond, said }) => {
    const accepted = { accepted: true, why: '' }
    expect(await verdicts(most)).toEqual({ typeScript: accepted, sql: accepted })
    const { typeScript, sql } = await verdicts(beyond)
    expect([typeScript.accepted, sql.accepted]).toEqual([false, false])
    if (said === undefined) return
    // And both name the limit.
    for (const { why } of [typeScript, sql]) expect(why).toContain(String(said))
  })
})

describe('what only a pattern tells apart, both tell apart alike', () => {
  const table: readonly (readonly [string, Input, boolean])[] = [
    ['topics of every letter', { topic: 'AZaz09._-' }, true],
    ...['.', '..', 'a b', 'a\n', 'é', 'a/b', '*'].map((topic): [string, Input, boolean] => [
      `the topic ${JSON.stringify(topic)}`,
      { topic },
      false,
    ]),
    ['header names of every character', { headers: { "AZaz09!#$%&'*+.^_`|~-": 'x' } }, true],
    ...[
      'a b',
      'a:b',
      'é',
      'a\n',
      '(',
      'a"b',
      'ce_id',
      'CE_ID',
      'CloudEvents:id',
      'cloudevents',
      'TwinBox-a',
      'x-twinbox-a',
      '__proto__',
      'CC',
      'BCC',
    ].map((name): [string, Input, boolean] => [
      `the header ${JSON.stringify(name)}`,
      { headers: Object.fromEntries([[name, 'x']]) },
      false,
    ]),
    // Close to what is refused.
    ...['cc', 'Bcc', '__PROTO__', '__proto__a', 'xce_a', 'a-twinbox'].map(
      (name): [string, Input, boolean] => [`the header ${name}`, { headers: { [name]: 'x' } }, true],
    ),
    ...['\r', '\n', 'a\nb', 'a\u0000'].map((value): [string, Input, boolean] => [
      `the value ${JSON.stringify(value)}`,
      { headers: { a: value } },
      false,
    ]),
    ...['', 'back\\nslash', '\t', '\u0001', '\u2028', '👍'].map((value): [string, Input, boolean] => [
      `the value ${JSON.stringify(value)}`,
      { headers: { a: value } },
      true,
    ]),
    ...['a/b', 'text/plain; charset=utf-8', 'a/b;c', 'a/b ; c="d"', 'A!#$&^_.+-/z;x=(y)'].map(
      (contentType): [string, Input, boolean] => [
        `the content type ${contentType}`,
        { payload: bytes(1), contentType },
        true,
      ],
    ),
    ...[
      '',
      'a',
      'a/',
      '/b',
      'a/b;',
      'a/b; ',
      'a/b c',
      'a/b; c d',
      'a/b;c\n',
      'a/b;\u0007',
      'a/b;\u00a0',
      'a/b;\u200b',
      'a/b; c=é',
      'é/b',
      'a/b\r\nx: y',
    ].map((contentType): [string, Input, boolean] => [
      `the content type ${JSON.stringify(contentType)}`,
      { payload: bytes(1), contentType },
      false,
    ]),
    ['application/json beside JSON', { contentType: 'application/json' }, true],
    ['another one beside JSON', { contentType: 'text/plain' }, false],
    ['deliverAt and delayMs', { deliverAt: ahead(minute), delayMs: minute }, false],
    ['no headers', { headers: {} }, true],
  ]

  test.each(table)('%s', async (_what, input, accepted) => {
    const { typeScript, sql } = await verdicts(input)
    expect({ typeScript: typeScript.accepted, sql: sql.accepted }).toEqual({
      typeScript: accepted,
      sql: accepted,
    })
  })
})

test('whatever is published, both decide alike', async () => {
  /** Near a limit, or short, out of characters that a pattern may tell apart. */
  const near = (limit: number, ...characters: string[]): fc.Arbitrary<string> =>
    fc
      .tuple(
        fc.constantFrom(...characters),
        fc.oneof(
          { weight: 2, arbitrary: fc.constant(0) },
          fc.integer({ min: Math.max(0, limit - 6), max: limit + 1 }),
        ),
        fc.array(fc.constantFrom(...characters), { maxLength: 4 }),
      )
      .map(([fill, length, rest]) => fill.repeat(length) + rest.join(''))
  const ascii = Array.from({ length: 128 }, (_, code) => String.fromCharCode(code))
  const letters = [...ascii, 'é', 'İ', 'ſ', '\u00a0', '\u0085', '\u200b', '\u2028', '👍', '\ufeff']
  const tokens = ['a', 'Z', '0', '.', '_', '-', '!', '`', '~', ' ', ':', '/', ';', '=', '"', 'é', '\n', 'ſ']
  const optional = <Value>(arbitrary: fc.Arbitrary<Value>): fc.Arbitrary<Value | undefined> =>
    fc.option(arbitrary, { nil: undefined, freq: 1 })
  const times = (limit: number): fc.Arbitrary<number> =>
    fc.oneof(fc.integer({ min: -2, max: 2 * minute }), fc.constantFrom(limit - minute, limit, limit + minute))
  const content = fc.oneof(
    { weight: 2, arbitrary: fc.constant({ payload: 1 }) },
    fc.record({
      payload: fc.constant(Uint8Array.of(1)),
      contentType: fc.oneof(
        near(limits.contentTypeLength, ...tokens),
        fc.tuple(near(2, ...tokens), near(4, ...letters)).map(([type, rest]) => `a/${type}; ${rest}`),
        near(limits.contentTypeLength - 2, ...letters).map((rest) => `a/b;${rest}`),
      ),
    }),
  )
  const names = fc.oneof(
    near(limits.headerNameLength, ...tokens),
    fc
      .tuple(
        fc.constantFrom('ce_', 'CE_', 'cloudevents', 'twinbox', 'X-Twinbox', '__proto__', 'CC', 'bcc', ''),
        near(1, ...tokens),
      )
      .map((parts) => parts.join('')),
  )
  const input = fc.tuple(
    content,
    fc.record({
      topic: optional(near(limits.topicLength, ...tokens)),
      key: optional(near(limits.keyBytes, ...letters)),
      dedupeKey: optional(near(limits.dedupeKeyBytes, ...letters)),
      headers: optional(
        fc
          .array(
            fc.tuple(names, fc.oneof(near(3, ...letters), near(limits.headersBytes, 'x', '\u0001', 'é'))),
            { maxLength: 3 },
          )
          .map((entries) => Object.fromEntries(entries)),
      ),
      delayMs: optional(times(limits.aheadMs)),
      // Far enough from a whole minute that the time between the two decides nothing.
      expiresIn: optional(times(limits.aheadMs).map((ms) => ms + minute / 2)),
    }),
  )
  let accepted = 0
  let count = 0
  await fc.assert(
    fc.asyncProperty(input, async ([body, { expiresIn, ...rest }]) => {
      const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined))
      const expires = expiresIn === undefined ? {} : { expiresAt: ahead(expiresIn) }
      const { typeScript, sql } = await verdicts({ ...body, ...given, ...expires })
      expect([typeScript.accepted, typeScript.why, sql.why]).toEqual([sql.accepted, typeScript.why, sql.why])
      count++
      if (typeScript.accepted) accepted++
    }),
    { numRuns: 500, seed: fuzzSeed },
  )
  // Otherwise it compares nothing.
  expect(accepted).toBeGreaterThan(count / 20)
  expect(accepted).toBeLessThan(count * 0.95)
})

test('what the tables let through at once, without a look at each header, each header would have passed', async () => {
  const name = fc
    .array(
      fc.constantFrom(
        ...['ce_', 'CE_', 'Ce', '_', 'tra', 'cloudevents', 'CloudEvents', 'twinbox', 'x-', 'X-Twinbox'],
        ...[
          '__proto__',
          'CC',
          'cc',
          'B',
          'b',
          'a',
          'Z',
          '0',
          '~',
          '"',
          '\\',
          ':',
          ',',
          ' ',
          'é',
          '\u212a',
          '\n',
          '{',
        ],
      ),
      { maxLength: 4 },
    )
    .map((parts) => parts.join(''))
  const value = fc.oneof({ weight: 9, arbitrary: name }, { weight: 1, arbitrary: fc.jsonValue() })
  const texts = fc.sample(
    fc.oneof(
      {
        weight: 9,
        arbitrary: fc
          .array(fc.tuple(name, value), { maxLength: 3 })
          .map((entries) => JSON.stringify(Object.fromEntries(entries))),
      },
      { weight: 1, arbitrary: fc.json() },
    ),
    { numRuns: 5000, seed: fuzzSeed },
  )
  const { rows } = await client.query<{ text: string; passes: boolean; each: boolean }>(
    `select text, twinbox.sound_headers(text) as passes, twinbox.each_header_is_sound(text::json) as each
    from unnest($1::text[]) as text`,
    [texts],
  )
  expect(rows.filter(({ passes, each }) => passes !== each)).toEqual([])
  // Otherwise it compares nothing.
  expect(rows.filter(({ passes }) => passes).length).toBeGreaterThan(500)
  expect(rows.filter(({ passes }) => !passes).length).toBeGreaterThan(500)
})
