import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { check, type Findings } from '../../proof/soak/checker.ts'
import { Database } from '../../src/database/database.ts'
import { refusalText } from '../../proof/stage/moody.ts'
import { awayText, type CheckName } from '../../proof/sql/rules.ts'
import { soakSql } from '../../proof/sql/soak.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** That the checker of the soak finds what there is to be found, and nothing else. */
let tables: TestDatabase
let database: Database
let folder: string
let histories: string[]
beforeAll(async () => {
  tables = await createTestDatabase()
  database = new Database(tables.url)
})
beforeEach(async () => {
  await tables.query(soakSql('twinbox').create)
  folder = await mkdtemp(join(tmpdir(), 'twinbox-checker-'))
  histories = []
})
afterEach(async () => {
  await tables.query(undo)
  await rm(folder, { recursive: true })
})
afterAll(async () => {
  await database.close()
  await tables.drop()
})

const undo = `
  drop table twinbox.soak_away, twinbox.soak_ledger, twinbox.soak_duplicate, twinbox.soak_effect, twinbox.soak_audit, twinbox.soak_fault, twinbox.soak_attempt,
    twinbox.soak_reported, twinbox.soak_place, twinbox.soak_back;
  drop function twinbox.soak_gone, twinbox.soak_taken, twinbox.soak_lane, twinbox.soak_placed cascade;
  truncate twinbox.seen, twinbox.dead_letter;
  update twinbox.lane set holder = null`

/** A uuid that tells which message it is. */
const id = (n: number): string => `00000000-0000-7000-8000-${String(n).padStart(12, '0')}`

interface Told {
  readonly key?: string | null
  readonly tx?: number
  readonly locked?: boolean
  readonly outcome?: 'ok' | 'fail' | 'info' | 'none'
  readonly begun?: number
  readonly ended?: number
  readonly dedupeKey?: string
}

/** Publishes a message, as the tables and the histories would have it. */
async function publish(n: number, told: Told = {}): Promise<void> {
  const {
    key = null,
    tx = n,
    locked = false,
    outcome = 'ok',
    begun = n * 100,
    ended = n * 100 + 50,
    dedupeKey,
  } = told
  await tables.query(
    `insert into twinbox.soak_ledger (n, id, topic, key, hash, tx, locked, dedupe_key)
    values ($1, $2, 'soak.single', $3, 7, $4, $5, $6)`,
    [n, id(n), key, tx, locked, dedupeKey ?? null],
  )
  histories.push(`${begun}\tpublish\t${tx}\t1\t${begun}`, `${begun + 1}\tcommit\t${tx}\t1`)
  if (outcome !== 'none') histories.push(`${ended}\t${outcome}\t${tx}\t1\t${begun}`)
}

const awayAt = (n: number, at: number, attempt = 1): string => `${at}\taway\t${id(n)}\t${attempt}`

interface Done {
  readonly key?: string | null
  readonly hash?: number
  readonly attempt?: number
  readonly fence?: number
  readonly worker?: number
  readonly plain?: boolean
  /** Its end in the inbox: as the trigger would see it, or none. */
  readonly gone?: { readonly lane: number; readonly fence: number; readonly holder: number } | null
}

async function handle(n: number, done: Done = {}): Promise<void> {
  const { key = null, hash = 7, attempt = 1, fence = 1, worker = 5, plain = false } = done
  const gone = done.gone === undefined ? { lane: 64, fence, holder: worker } : done.gone
  await tables.transaction(async (client) => {
    await client.query(
      `insert into twinbox.soak_effect (n, id, topic, key, hash, attempt, fence, worker, plain)
      values ($1, $2, 'soak.single', $3, $4, $5, $6, $7, $8)`,
      [n, id(n), key, hash, attempt, fence, worker, plain],
    )
    await client.query(`insert into twinbox.seen (consumer, id) values ('soak', $1) on conflict do nothing`, [
      id(n),
    ])
    if (gone === null) return
    await client.query(
      `insert into twinbox.soak_audit (op, id, lane, seq, fence, holder) values ('gone', $1, $2, 1, $3, $4)`,
      [id(n), gone.lane, gone.fence, gone.holder],
    )
  })
}

async function found(): Promise<Findings> {
  await writeFile(join(folder, 'a.1.tsv'), histories.map((line) => `${line}\n`).join(''))
  return check(database, folder)
}

/** The rules that are broken, and how often. */
async function broken(): Promise<Partial<Record<CheckName, number>>> {
  const { broken: all } = await found()
  return Object.fromEntries(Object.entries(all).filter(([, count]) => count > 0))
}

describe('the checker', () => {
  test('finds nothing where all is well', async () => {
    for (const n of [1, 2, 3]) {
      await publish(n, { key: 'a' })
      await handle(n, { key: 'a' })
    }
    // Two that overlap have no order, a commit that nobody heard of may have taken place, and a dead letter is an end.
    await publish(5, { key: 'b', begun: 500, ended: 900 })
    await publish(6, { key: 'b', begun: 600, ended: 700 })
    for (const n of [6, 5]) await handle(n, { key: 'b' })
    await publish(7, { outcome: 'none' })
    await handle(7, { plain: true, gone: null })
    await handle(7, { plain: true, gone: null, attempt: 2 })
    await publish(8)
    await tables.query(
      `insert into twinbox.dead_letter (id, consumer, topic, attempt, reason, body) values ($1, 'soak', 't', 6, 'r', '')`,
      [id(8)],
    )
    expect(await broken()).toEqual({})
  })

  /** Messages of a key got these places in a box, in this order; before `back` its sequence had gone back. */
  const place = (
    seqs: Readonly<Record<number, number>>,
    box = 'outbox',
    serialOf = (n: number): number => n,
  ): Promise<unknown> =>
    tables.query(
      `insert into twinbox.soak_place (serial, box, lane, id, seq) overriding system value
      select n.serial, $1, 7, n.id, n.seq from unnest($2::bigint[], $3::uuid[], $4::bigint[]) as n(serial, id, seq)`,
      [
        box,
        Object.keys(seqs).map((n) => serialOf(Number(n))),
        Object.keys(seqs).map((n) => id(Number(n))),
        Object.values(seqs),
      ],
    )
  /** The lane had been read up to `watermark` at least. */
  const goBack = (serial: number, stood: number, box = 'outbox', watermark = stood): Promise<unknown> =>
    tables.query(
      'insert into twinbox.soak_back (box, serial, stood, watermarks, at) values ($1, $2, $3, $4, 50)',
      [box, serial, stood, { 7: watermark }],
    )

  test.each([[[3, 4, 1, 2, 5]], [[1, 2, 5, 3, 4]]])(
    'finds nothing where a sequence went back, and what got places in between comes early or late: %s',
    async (order) => {
      for (const n of [1, 2, 3, 4, 5]) await publish(n, { key: 'a', locked: true })
      await place({ 1: 11, 2: 12, 3: 5, 4: 6, 5: 13 })
      await goBack(2, 12)
      for (const n of order) await handle(n, { key: 'a' })
      expect(await broken()).toEqual({})
    },
  )

  test('finds nothing where what got a place in between came early, since its lane had not been read up to there', async () => {
    for (const n of [1, 2, 3, 4]) await publish(n, { key: 'a' })
    await place({ 1: 11, 2: 12, 3: 8, 4: 11 })
    await goBack(2, 12, 'outbox', 10)
    for (const n of [1, 2, 4, 3]) await handle(n, { key: 'a' })
    expect(await broken()).toEqual({})
  })

  test('finds nothing where what was written after a sequence was set forward got a place that had been given as well', async () => {
    for (const n of [1, 2, 3, 4]) await publish(n, { key: 'a' })
    // By the time it was mended, 12 had been handled.
    await place({ 1: 11, 2: 12, 3: 5, 4: 12 })
    await goBack(2, 12)
    histories.push('60\tsequence_mended\toutbox\t5\t11')
    for (const n of [1, 2, 4, 3]) await handle(n, { key: 'a' })
    expect(await broken()).toEqual({})
  })

  test('finds nothing where what a broker has refused for good had come before', async () => {
    await publish(1)
    await handle(1)
    await tables.query(
      `insert into twinbox.dead_letter (id, consumer, topic, attempt, reason, body) values ($1, '', 't', 1, $2, '')`,
      [id(1), `BrokerError: ${refusalText}`],
    )
    expect(await broken()).toEqual({})
  })

  /** It did, while these failed in the same process at their first attempt. */
  const dieOfService = async (others: readonly number[]): Promise<void> => {
    await publish(2)
    await tables.query(
      `insert into twinbox.dead_letter (id, consumer, topic, attempt, reason, body) values ($1, 'soak', 't', 6, 'Error: ${awayText}', '')`,
      [id(2)],
    )
    histories.push(...others.map((n) => awayAt(n, n * 1e6)), awayAt(2, 2e6, 3), awayAt(2, 20e6, 6))
  }

  test('finds nothing where a message died of a service that was away while too few failed to tell', async () => {
    await dieOfService([3, 4, 5, 6])
    expect(await broken()).toEqual({})
  })

  /** Made by the nemesis: what was committed from then to then went with the server that was there. */
  const restore = (from: number, to: number): unknown => histories.push(`${to + 5}\trestore\t${from}\t${to}`)
  const commit = (tx: number, begun: number, ended: number): unknown =>
    histories.push(`${begun}\tpublish\t${tx}\t1\t${begun}`, `${ended}\tok\t${tx}\t1\t${begun}`)

  test('finds nothing where a restore took back what had been committed since the dump, and what was said of it', async () => {
    commit(9, 1000, 3000)
    commit(10, 2500, 2600)
    commit(11, 3900, 4100)
    histories.push(`3500\thandled\t5\t${id(99)}`)
    // Just being committed when the dump was made.
    await publish(12, { begun: 1500, ended: 2500 })
    await handle(12)
    restore(2000, 4000)
    expect(await broken()).toEqual({})
  })

  test('finds nothing where a handler without a transaction wrote to the server that a restore had put in place', async () => {
    await handle(9, { plain: true, gone: null })
    histories.push(`3900\thandle\t5\t${id(9)}\t1\t1`)
    restore(2000, 4000)
    expect(await broken()).toEqual({})
  })

  const lone = async (): Promise<void> => {
    await publish(1)
    await handle(1)
  }
  const cases: Record<string, [Partial<Record<CheckName, number>>, () => Promise<unknown>]> = {
    'a message that was never handled': [{ lost: 1 }, () => publish(2)],
    'a commit that was acknowledged and is not there': [
      { lost: 1 },
      async () => void histories.push('1\tpublish\t9\t1\t1', '2\tcommit\t9\t1', '3\tok\t9\t1\t1'),
    ],
    'an effect of nothing': [{ ghosts: 1 }, () => handle(2)],
    'a message of a transaction that was rolled back': [
      { ghosts: 1 },
      async () => {
        await publish(2, { outcome: 'fail' })
        await handle(2)
      },
    ],
    'half a transaction': [
      { ghosts: 1 },
      async () => {
        await publish(2, { outcome: 'none' })
        histories.push('999\tcommit\t2\t2')
        await handle(2)
      },
    ],
    'a payload that changed on the way': [
      { altered: 1 },
      async () => {
        await publish(2)
        await handle(2, { hash: 8 })
      },
    ],
    'two effects': [
      { duplicateEffects: 1 },
      async () => {
        await publish(2)
        await handle(2)
        await handle(2)
      },
    ],
    'an effect and a dead letter': [
      { duplicateEffects: 1 },
      () =>
        tables.query(
          `insert into twinbox.dead_letter (id, consumer, topic, attempt, reason, body) values ($1, 'soak', 't', 6, 'r', '')`,
          [id(1)],
        ),
    ],
    'a message that died of a service that was away': [{ attempts: 1 }, () => dieOfService([3, 4, 5, 6, 7])],
    'an order that was turned round between transactions': [
      { orderViolations: 1 },
      async () => {
        for (const n of [2, 3]) await publish(n, { key: 'a' })
        for (const n of [3, 2]) await handle(n, { key: 'a' })
      },
    ],
    'an order that was turned round under the ordering lock': [
      { orderViolations: 1 },
      async () => {
        // They overlap by their publishers' clocks: only the lock says which was first.
        for (const n of [2, 3]) await publish(n, { key: 'a', locked: true, begun: 1, ended: 1000 + n })
        for (const n of [3, 2]) await handle(n, { key: 'a' })
      },
    ],
    'an order that was turned round in one transaction': [
      { orderViolations: 1 },
      async () => {
        await publish(2, { key: 'a', tx: 2, outcome: 'none' })
        await publish(3, { key: 'a', tx: 2, outcome: 'none' })
        histories.push('999\tcommit\t2\t2')
        for (const n of [3, 2]) await handle(n, { key: 'a' })
      },
    ],
    'what went before more than the sequence that had gone back can be blamed for': [
      { orderViolations: 2 },
      async () => {
        for (const n of [2, 3, 4, 5, 6]) await publish(n, { key: 'a' })
        // 4 and 5 came after it, 4 before 5; 3 had a place before both.
        await place({ 2: 11, 3: 4, 4: 5, 5: 6, 6: 12 })
        await goBack(3, 11)
        for (const n of [5, 4, 2, 3, 6]) await handle(n, { key: 'a' })
      },
    ],
    'an order that was turned round beside a sequence that had gone back': [
      { orderViolations: 1 },
      async () => {
        for (const n of [2, 3]) await publish(n, { key: 'a' })
        await place({ 2: 11, 3: 12 })
        await place({ 2: 11, 3: 5 }, 'inbox', (n) => 10 + n)
        // It was another sequence, or another time.
        await goBack(2, 12, 'outbox')
        await goBack(13, 12, 'inbox')
        for (const n of [3, 2]) await handle(n, { key: 'a' })
      },
    ],
    'a message that was buried in the outbox, and no broker has refused it': [
      { lost: 1 },
      async () => {
        await publish(2)
        await tables.query(
          `insert into twinbox.dead_letter (id, consumer, topic, attempt, reason, body) values ($1, '', 't', 1, 'r', '')`,
          [id(2)],
        )
      },
    ],
    'a row that was completed by somebody who had lost it': [
      { zombieWrites: 1 },
      async () => {
        await publish(2)
        await handle(2, { worker: 5, gone: { lane: 64, fence: 2, holder: 6 } })
      },
    ],
    'a message of a lane that had long been taken over': [
      { zombieWrites: 1 },
      async () => {
        await publish(2, { key: 'a' })
        await tables.query(
          `insert into twinbox.soak_audit (op, lane, fence, holder, previous, at)
          values ('lane', 3, 2, 6, 5, clock_timestamp() - interval '2 seconds')`,
        )
        await handle(2, { key: 'a', gone: { lane: 3, fence: 2, holder: 6 } })
      },
    ],
    'an effect without the end of its message': [
      { halfDone: 1 },
      async () => {
        await publish(2)
        await handle(2, { gone: null })
      },
    ],
    'a commit from before a dump that is not there after the restore': [
      { lost: 1 },
      async () => {
        commit(9, 1000, 1900)
        restore(2000, 4000)
      },
    ],
    'a commit from after a restore that is not there': [
      { lost: 1 },
      async () => {
        commit(9, 4100, 4200)
        restore(2000, 4000)
      },
    ],
    'a transaction of which a restore has left one half': [
      { ghosts: 1 },
      async () => {
        await publish(2, { begun: 1500, ended: 2500 })
        await handle(2)
        histories.splice(-3, 3, '1500\tpublish\t2\t2\t1500', '2500\tok\t2\t2\t1500')
        restore(2000, 4000)
      },
    ],
    'an effect of nothing in a transaction, around a restore': [
      { ghosts: 1 },
      async () => {
        await handle(9)
        histories.push(`3900\thandle\t5\t${id(9)}\t1\t1`)
        restore(2000, 4000)
      },
    ],
    'a report from before a dump that is not true': [
      { falseReports: 1 },
      async () => {
        histories.push(`1500\thandled\t5\t${id(99)}`)
        restore(2000, 4000)
      },
    ],
    'a fence that did not rise': [
      { fenceJumps: 1 },
      () =>
        tables.query(
          `insert into twinbox.soak_audit (op, lane, fence, holder) values ('lane', 3, 4, 6), ('lane', 3, 4, 7)`,
        ),
    ],
    'a dedupe key that was given twice': [
      { dedupe: 1 },
      async () => {
        for (const n of [2, 3]) {
          await publish(n, { dedupeKey: 'd' })
          await handle(n)
        }
      },
    ],
    'too many attempts': [
      { attempts: 1 },
      async () => {
        await publish(2)
        await handle(2, { attempt: 7 })
      },
    ],
    'an event about what did not happen': [
      { falseReports: 1 },
      async () => void histories.push(`5\thandled\t5\t${id(1)},${id(99)}`),
    ],
    'a lane that is still held': [
      { unrest: 1 },
      () => tables.query('update twinbox.lane set holder = 9 where lane = 3'),
    ],
  }
  test.each(Object.entries(cases))('finds %s', async (_, [expected, plant]) => {
    await lone()
    await plant()
    expect(await broken()).toEqual(expected)
  })

  test('tells the whole life of a message', async () => {
    await publish(2, { key: 'a' })
    await handle(2, { key: 'a' })
    await handle(2, { key: 'a', attempt: 2, worker: 6 })
    histories.push(`5\tclaimed\t5\t${id(2)}`, `6\thandle\t5\t${id(2)}\t1\t1`)
    const { violations } = await found()
    const [twice] = violations
    expect(twice).toMatchObject({ rule: 'duplicateEffects', id: id(2), why: '2 effects' })
    expect(twice!.life.map((line) => / (ledger|effect|audit|seen|a\.1: \w+)/.exec(line)?.[1])).toEqual([
      'ledger',
      'effect',
      'seen',
      'audit',
      'effect',
      'audit',
      'a.1: publish',
      'a.1: commit',
      'a.1: ok',
      'a.1: claimed',
      'a.1: handle',
    ])
  })

  // `MESSAGES=1000000` for what a long soak brings; a join that is a loop is found by fewer.
  test('takes very many messages in a moment', async () => {
    const count = Number(process.env['MESSAGES'] ?? 200_000)
    await tables.query('alter table twinbox.soak_ledger set unlogged')
    await tables.query('alter table twinbox.soak_effect set unlogged')
    await tables.query('alter table twinbox.soak_audit set unlogged')
    const uuid = `('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid`
    const key = `case when n % 2 = 0 then 'k' || n % 10007 end`
    await tables.query(`
      insert into twinbox.soak_ledger (n, id, topic, key, hash, tx, locked)
      select n, ${uuid}, 't', ${key}, n, n / 10, n % 4 = 0 from generate_series(1, ${count}) as n order by n`)
    await tables.query(`
      insert into twinbox.soak_effect (n, id, topic, key, hash, attempt, fence, worker, plain, xid)
      select n, ${uuid}, 't', ${key}, n, 1, 1, 5, false, n from generate_series(1, ${count}) as n order by n`)
    await tables.query(`
      insert into twinbox.soak_audit (op, id, lane, seq, fence, holder, xid)
      select 'gone', ${uuid}, case when n % 2 = 0 then 3 else 64 end, n, 1, 5, n from generate_series(1, ${count}) as n`)
    await tables.query(
      `insert into twinbox.seen (consumer, id) select 'soak', ${uuid} from generate_series(1, ${count}) as n`,
    )
    // The last but one of its key comes last.
    await tables.query(`update twinbox.soak_effect set serial = default where n = ${count - 10007 * 2}`)
    for (let tx = 0; tx <= count / 10; tx++) {
      histories.push(
        `${tx * 10}\tpublish\t${tx}\t10\t${tx * 10}`,
        `${tx * 10 + 5}\tok\t${tx}\t${tx === 0 ? 9 : tx === count / 10 ? 1 : 10}\t${tx * 10}`,
      )
    }
    const { broken: all, seconds } = await found()
    expect(Object.entries(all).filter(([, violations]) => violations > 0)).toEqual([['orderViolations', 1]])
    process.stdout.write(`${count} messages were checked in ${seconds} s\n`)
  }, 120_000)
})
