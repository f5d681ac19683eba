import { execFileSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { watch } from '../../src/cli/screen.ts'
import { createEndpoint } from '../../src/cli/endpoint.ts'
import { adviceFor } from '../../src/doctor/server.ts'
import { prometheus } from '../../src/observe/prometheus.ts'
import { createHealth, diagnose } from '../../src/index.ts'
import { readGauges } from '../../src/observe/gauges.ts'
import { openDatabase } from '../../src/database/database.ts'
import { Command, type Output } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/**
 * Somebody has put into every column that holds text what commands a terminal, turns its direction, and begins a line that looks
 * like one of ours. Nothing that shows it may pass that on.
 */
const forged = 'FORGED LINE'
const hostile = `x\u001b[2J\u001b]0;title\u0007\u001b]52;c;cHduZWQ=\u0007\u009b31m\u0085\u007f\u202edlrow\u2066\u200f\u061c\u2028\r\n${forged}`
// eslint-disable-next-line no-control-regex
const raw = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]/

function expectClean(where: string, text: string): void {
  expect([where, raw.exec(text)?.[0].charCodeAt(0).toString(16)]).toEqual([where, undefined])
  expect([where, text.split('\n').filter((line) => line.trimStart().startsWith(forged))]).toEqual([where, []])
}

const id = '00000000-0000-7000-8000-000000004711'
const topicsOf = 'topics.config.mjs'
let database: TestDatabase
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-terminal-'))
  database = await createTestDatabase()
  const library = new URL('../../.build/src/index.js', import.meta.url).href
  await writeFile(
    join(folder, topicsOf),
    `import { defineTopics, type } from ${JSON.stringify(library)}
    const hostile = ${JSON.stringify(hostile)}
    const topics = defineTopics({ t: { schema: type(), summary: hostile } })
    export default { topics, consumers: { [hostile]: { topics: ['t'], handlers: {} } } }`,
  )
  const fill = (sql: string): Promise<unknown> =>
    database.query(`with p as (select $1::text as evil, $2::uuid as id) ${sql}`, [hostile, id])
  const errors = `jsonb_build_array(jsonb_build_object('attempt', 1, 'at', evil, 'worker', 1, 'error', evil, 'class', evil, 'stack', evil || E'\\n    at ' || evil))`
  const content = `json_build_object('h' || evil, evil), to_json(evil), 'x/' || evil, ${errors}`
  const columns = `headers, payload, content_type, errors`
  await fill(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, ${columns}) select evil, 3, id, evil, evil, ${content} from p`,
  )
  await fill(`insert into twinbox.lane (consumer, lane) select evil, 3 from p`)
  await fill(
    `insert into twinbox.parked (until, blocker, consumer, lane, key, reason) select 'infinity', 1, evil, 3, evil, evil from p`,
  )
  await fill(
    `insert into twinbox.parked_message (seq, consumer, lane, id, topic, key, ${columns}) select 2, evil, 3, id, evil, evil, ${content} from p`,
  )
  await fill(
    `insert into twinbox.unhandled (seq, received_at, consumer, lane, id, topic, key, ${columns}) select 3, now(), evil, 3, id, evil, evil, ${content} from p`,
  )
  await fill(
    `insert into twinbox.dead_letter (seq, attempt, consumer, id, topic, key, reason, ${columns}) select 1, 1, evil, id, evil, evil, evil, ${content} from p`,
  )
  await fill(
    `insert into twinbox.handled (attempt, consumer, id, topic, key) select 1, evil, id, evil, evil from p`,
  )
  await fill(`insert into twinbox.seen (consumer, id) select evil, id from p`)
  await fill(
    `insert into twinbox.audit (action, who, why, consumer, topic, key, id, reason, errors) select 'skip', evil, evil, evil, evil, evil, id, evil, ${errors} from p`,
  )
  await fill(
    `insert into twinbox.circuit (probe_at, consumer, topic, reason, error) select now(), evil, evil, evil, evil from p`,
  )
  await fill(
    `insert into twinbox.worker (kind, consumer, host, pid, version, application, beat_at) select 'claimer', evil, evil, 1, evil, evil, now() from p`,
  )
  await fill(`insert into twinbox.subscription (consumer, pattern) select evil, evil from p`)
  await fill(
    `insert into twinbox.schedule (name, cron, time_zone, catch_up, topic, key, payload) select evil, '* * * * *', 'UTC', 'one', evil, evil, 'null' from p`,
  )
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true, force: true })
})

const twinbox = (args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Output> =>
  new Command(folder, args, { TWINBOX_DATABASE_URL: database.url, ...env }).done

/** Every command that shows what it finds, and what each must show of it, so that none is clean for showing nothing. */
const commands: readonly (readonly [args: readonly string[], shows: RegExp])[] = [
  [['status'], /Latest dead letters/],
  [['status', '--json'], /"deadLetters"/],
  [['workers'], /claimer/],
  [['workers', '--json'], /"workers"/],
  [['doctor'], /grants/],
  [['doctor', '--json'], /"findings"/],
  [['roles'], /twinbox_publisher/],
  [['sql'], /inbox\.claim/],
  [['dead', 'list'], /reason/],
  [['dead', 'list', '--json'], /"letters"/],
  [['dead', 'show', id, '--payload'], /^header /m],
  [['dead', 'show', id, '--payload', '--json'], /"payload"/],
  [['dead', 'export'], /"payload"/],
  [['parked', 'list', '--limit', '1'], /waiting/],
  [['parked', 'list', '--json'], /"keys"/],
  [['messages', 'list', '--payload'], /unhandled/],
  [['messages', 'list', '--payload', '--json'], /"messages"/],
  [['messages', 'show', id, '--payload'], /skip \(/],
  [['messages', 'show', id, '--payload', '--json'], /"places"/],
  [['explain', id], /dead letter/],
  [['explain', id, '--json'], /"dead"/],
  [['audit'], /skip/],
  [['audit', '--json'], /"entries"/],
  [['schedules', 'list'], /catch up/],
  [['topics', '--config', topicsOf], /summary/],
  [['topics', '--config', topicsOf, '--json'], /"topics"/],
  [['topics', '--config', topicsOf, '--asyncapi'], /"asyncapi"/],
  [['erase', '--key', hostile, '--dry-run'], /the schedule/],
  [['export', '--key', hostile], /"payload"/],
  // What is said of arguments, which a script may have from anywhere.
  [[hostile], /unknown command/],
  [['dead', 'list', `--${hostile}`], /unknown option/],
  [['dead', 'show', hostile], /neither the number/],
  [['dead', 'list', '--after', hostile], /earlier page/],
  [['parked', 'redrive', `-${hostile}`], /unknown option/],
  [['parked', 'redrive', hostile, '--consumer', 'c'], /not held back/],
  [['schedules', 'pause', hostile], /name must be text/],
  [['status', '--schema', hostile], /schema must be/],
  [['status', '--config', hostile], /no configuration file/],
  [['unsubscribe', '--consumer', 'c', hostile], /topic/i],
  [
    ['status', '--verbose', '--database', `postgres://127.0.0.1:1/${encodeURIComponent(hostile)}`],
    /ECONNREFUSED/,
  ],
  [['relay', '--broker', 'postgres', '--metrics-host', hostile, '--metrics-port', '0'], /Cannot listen/],
  [['dashboard', '--port', hostile], /port/],
]

describe('what a command shows is inert', () => {
  test.each(commands)('%j', async (args, shows) => {
    const { stdout, stderr } = await twinbox(args)
    expect(stdout + stderr).toMatch(shows)
    expectClean('stdout', stdout)
    expectClean('stderr', stderr)
  })

  test('of every command', async () => {
    const { stdout } = await twinbox(['--help'])
    const all = [...stdout.matchAll(/^ {2}([a-z]+)\b/gm)].map(([, name]) => name!)
    const seen = new Set(commands.map(([[name]]) => name))
    // The proofs run on what they make themselves, and init writes files of ours; migrating and pruning show counts and names of ours.
    const others = ['help', 'init', 'demo', 'soak', 'migrate', 'prune', 'receive', 'claim', 'work']
    expect(all.length).toBeGreaterThan(12)
    expect(all.filter((name) => !seen.has(name) && !others.includes(name))).toEqual([])
  })

  test('a file that is exported too, and it is the same JSON', async () => {
    const out = join(folder, 'letters.jsonl')
    await twinbox(['dead', 'export', '--out', out])
    const text = await readFile(out, 'utf8')
    expectClean('file', text)
    expect(JSON.parse(text)).toMatchObject({ key: hostile, topic: hostile, reason: hostile })
  })

  test('of a screen that draws again and again, everything but its own commands', async () => {
    const written: string[] = []
    const stop = new AbortController()
    const screen = {
      isTTY: true,
      rows: 50,
      write: (text: string) => {
        written.push(text)
        if (written.length === 2) stop.abort()
      },
    }
    await watch(() => Promise.resolve(() => `a\u001b]0;t\u0007\u009b`), screen, false, stop.signal)
    // eslint-disable-next-line no-control-regex
    expectClean('screen', written.join('').replaceAll(/\u001b\[(\?1049[hl]|\?25[hl]|H|J)/g, ''))
    expect(written.join('')).toContain(String.raw`a\u001b]0;t\u0007\u009b`)
  })
})

test('what is to be pasted into a shell is one word of it, whatever a key is', async () => {
  const key = `o'; touch pwned; '`
  await database.query(
    `insert into twinbox.parked (until, blocker, consumer, lane, key, reason) values ('infinity', 1, 'q', 1, $1, 'r'), ('infinity', 1, 'q', 1, $1 || 'z', 'r')`,
    [key],
  )
  const { stdout } = await twinbox(['parked', 'list', '--consumer', 'q', '--limit', '1'])
  const after = /--after (.*)$/m.exec(stdout)![1]!
  const words = execFileSync('sh', ['-c', `printf '%s\\n' ${after}`], { cwd: folder }).toString()
  expect(JSON.parse(words)).toEqual(['q', 1, key])
})

test('findings of doctor name a prepared transaction so that its name is one word of the SQL', async () => {
  expect(adviceFor('prepared transaction', `x'; drop table y; --`, null)).toContain(`'x''; drop table y; --'`)
  for (const { found, advice } of await diagnose(database.url)) {
    expectClean('found', found)
    expect([found, advice]).toEqual([
      expect.not.stringContaining('\n'),
      advice?.includes('\n') ? 'one line' : advice,
    ])
  }
})

test('metrics and health show names in one line, not too long, and a bounded number of them', async () => {
  const { database: opened } = openDatabase(database.url)
  const metrics = prometheus({ database: opened })
  const health = createHealth(opened)
  try {
    await database.query(
      `insert into twinbox.lane (consumer, lane) select 'c' || nr, 0 from generate_series(1, 500) as nr`,
    )
    await database.query(
      `insert into twinbox.inbox (consumer, lane, id, topic, payload)
      select 'c1', 0, gen_random_uuid(), nr || repeat('t', 1000000), '1' from generate_series(1, 20) as nr`,
    )
    const common = { kind: 'claimer', consumer: 'c', workerId: 1 } as const
    for (const topic of [
      hostile,
      'y'.repeat(1_000_000),
      ...Array.from({ length: 1000 }, (_, nr) => `t${nr}`),
    ])
      metrics.onEvent({ ...common, type: 'dead_letter', id, topic, attempt: 1, reason: hostile })
    const text = await metrics.text()
    expectClean('metrics', text)
    const labels = [...text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)]
    expect(labels.length).toBeGreaterThan(200)
    expect(Math.max(...labels.map(([, , value]) => value!.length))).toBeLessThanOrEqual(700)
    const named = (name: string): Set<string> =>
      new Set(labels.filter(([, label]) => label === name).map(([, , value]) => value!))
    expect(named('consumer').size).toBeLessThanOrEqual(203)
    // What has no name of its own is counted all the same.
    const gauges = await readGauges(opened)
    expect(
      gauges.filter(({ name }) => name === 'twinbox_dead_letters').reduce((sum, { value }) => sum + value, 0),
    ).toBe(1)
    expect(gauges.some(({ labels: { consumer } }) => consumer === 'other')).toBe(true)

    health.onEvent({
      ...common,
      type: 'broker_down',
      error: Object.assign(new Error(hostile)) as never,
      retryInMs: 1,
    })
    const said: string[] = []
    const endpoint = await createEndpoint({
      ...{
        database: opened,
        schema: 'twinbox',
        port: 0,
        host: '127.0.0.1',
        stuckAfterMs: undefined,
        token: undefined,
      },
    })
    endpoint.onEvent({ ...common, type: 'started' })
    endpoint.onEvent({ ...common, type: 'broker_down', error: new Error(hostile) as never, retryInMs: 1 })
    const worker = { kind: 'claimer', consumer: 'c', id: 1 } as never
    await endpoint.open([worker], { say: (line) => void said.push(line), onEvent: () => {} })
    const address = /http:\/\/\S+/.exec(said[0]!)![0]
    for (const path of ['/health/ready', '/health/live', '/metrics']) {
      const answer = await fetch(address + path)
      expectClean(path, await answer.text())
    }
    await endpoint.close()
  } finally {
    await health.close()
    await metrics.close()
    await opened.close()
  }
})
