import { setTimeout as sleep } from 'node:timers/promises'
import { rounded, table } from '../figures.ts'
import { cpuTicks } from '../race/meter.ts'
import { count, within, type Common, type Scenario, type Stage } from '../scenario.ts'
import { createDashboard } from '../../src/dashboard/dashboard.ts'

interface Options extends Common {
  readonly seconds: number
  readonly messages: number
  readonly topics: number
  readonly dead: number
}

/** What the issue of the dashboard allows: server CPU, in milliseconds a second. */
const goalMs = 10
const tickMs = 10

export const dashboard: Scenario<Options> = {
  name: 'dashboard',
  does: 'What it costs the server that one, and ten, viewers have the overview open while much waits.',
  addOptions(command) {
    command
      .option('--seconds <number>', 'how long each is watched', within(1, 600), 20)
      .option('--messages <number>', 'that wait, half of them in an inbox', count(2, 10_000_000), 1_000_000)
      .option('--topics <number>', 'among them', count(1, 1_000_000), 200_000)
      .option('--dead <number>', 'dead letters', count(0, 1_000_000), 100_000)
  },
  async run(stage, { seconds, messages, topics, dead }) {
    await fill(stage, messages, topics, dead)
    const found: { readonly viewers: number; readonly cpuMs: number; readonly statements: number }[] = []
    for (const viewers of [1, 10]) found.push({ viewers, ...(await watch(stage, viewers, seconds)) })
    const rows = found.map(({ viewers, cpuMs, statements }) => [viewers, cpuMs, statements])
    return {
      text: table(['viewers', 'server CPU, ms/s', 'transactions/s'], rows),
      result: {
        valid: found.every(({ cpuMs }) => cpuMs > 0),
        met: found.every(({ cpuMs }) => cpuMs <= goalMs),
        goal: `at most ${goalMs} ms of server CPU a second, with ten viewers as with one`,
        found,
      },
    }
  },
}

/** What has waited for long, which the doctor counts. */
async function fill({ scratch, say }: Stage, messages: number, topics: number, dead: number): Promise<void> {
  say(`Writing ${messages} messages and ${dead} dead letters …`)
  const half = [Math.floor(messages / 2), topics]
  await scratch.query('set synchronous_commit = off')
  await scratch.query(
    `insert into twinbox.outbox (published_at, id, lane, topic, key, payload)
    select now() - interval '1 hour', gen_random_uuid(), i % 64, 't.' || i % $2::int, 'k' || i % 5000, '1' from generate_series(1, $1::int) as i`,
    half,
  )
  await scratch.query(
    `insert into twinbox.inbox (received_at, consumer, id, lane, topic, key, payload)
    select now() - interval '1 hour', 'billing', gen_random_uuid(), i % 64, 't.' || i % $2::int, 'k' || i % 5000, '1' from generate_series(1, $1::int) as i`,
    half,
  )
  await scratch.query(
    `insert into twinbox.dead_letter (id, seq, attempt, consumer, topic, key, payload, reason)
    select gen_random_uuid(), i, 3, 'billing', 't.' || i % 200, 'k' || i, '1', 'attempts' from generate_series(1, $1::int) as i`,
    [dead],
  )
  await scratch.query('vacuum analyze')
}

/** Streams of the overview, as browsers hold them open. */
async function watch(stage: Stage, viewers: number, seconds: number) {
  const { scratch } = stage
  const page = createDashboard({
    database: scratch.url,
    authorize: () => ({ name: 'bench', access: 'read' }),
  })
  try {
    const open = async (): Promise<void> => {
      const response = await page.fetch(new Request('http://localhost/live?page=%2F'))
      // It ends when the dashboard is closed.
      void response.text()
    }
    await page.fetch(new Request('http://localhost/')).then((response) => response.text())
    await Promise.all(Array.from({ length: viewers }, open))
    const before = await spent(stage)
    const startedAt = performance.now()
    await sleep(seconds * 1000)
    const after = await spent(stage)
    const forS = (performance.now() - startedAt) / 1000
    return {
      cpuMs: rounded(((after.ticks - before.ticks) * tickMs) / forS, 2),
      statements: rounded((after.commits - before.commits) / forS, 2),
    }
  } finally {
    await page.close()
  }
}

/** By the backends of the dashboard: those of this database that are not the bench's own. */
async function spent({ scratch }: Stage) {
  const backends = await scratch.query<{ pid: number }>(
    `select pid from pg_stat_activity where datname = current_database() and application_name like 'twinbox%'`,
  )
  const [row] = await scratch.query<{ commits: string }>(
    'select xact_commit::text as commits from pg_stat_database where datname = current_database()',
  )
  return {
    ticks: backends.reduce((sum, { pid }) => sum + (cpuTicks(pid) ?? 0), 0),
    commits: Number(row!.commits),
  }
}
