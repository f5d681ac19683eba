import type { createClaimer } from '../../src/claimer/claimer.ts'
import { Database } from '../../src/database/database.ts'
import { demoSql } from '../sql/demo.ts'
import type { TwinboxEvent } from '../../src/base/events.ts'
import type { Ready } from '../stage/crew.ts'
import { sentence } from '../../src/terminal/failure.ts'
import { startOwnServer } from '../stage/postgres.ts'
import { publishAll, type Published } from './publisher.ts'
import { hashOf } from './webhooks.ts'
import { close, obeyParent, say } from '../stage/child.ts'
import { employ } from '../stage/employ.ts'
import type { DemoRun } from './run.ts'

/** A process of the demo: the database server, the publisher, or one worker. It lives as long as its parent. */

export type Role = 'server' | 'publisher' | 'relay' | 'receiver' | 'claimer'

/** What the parent says. */
export type Order =
  | { readonly type: 'begin'; readonly role: Exclude<Role, 'server'>; readonly run: DemoRun }
  | { readonly type: 'begin'; readonly role: 'server' }
  /** Handlers take so long from now on. */
  | { readonly type: 'slow'; readonly ms: number }
  /** The publisher goes on after the first half. */
  | { readonly type: 'proceed' }
  | { readonly type: 'stop' }

/** An event, and when it happened by this machine's clock. */
export interface Seen {
  readonly at: number
  readonly event: TwinboxEvent
}

/** What the child says. */
export type News =
  | { readonly type: 'seen'; readonly seen: readonly Seen[] }
  | { readonly type: 'published'; readonly result: Published }

let slowMs = 0
let isServer = false
let stop = async (): Promise<void> => {}
let proceed = (): void => {}
const mayProceed = new Promise<void>((resolve) => (proceed = resolve))

async function begin(order: Order & { type: 'begin' }): Promise<void> {
  if (order.role === 'server') {
    isServer = true
    const server = await startOwnServer()
    stop = () => server.stop()
    return say({ type: 'ready', workerId: null, url: server.url } satisfies Ready)
  }
  const { run, role } = order
  if (role === 'publisher') {
    const database = new Database(run.databaseUrl, { schema: run.schema, poolSize: 12 })
    say({ type: 'ready', workerId: null, url: null } satisfies Ready)
    const result = await publishAll(run, database, mayProceed)
    await database.close()
    return say({ type: 'published', result } satisfies News)
  }
  const seen: Seen[] = []
  const tell = (): void => {
    if (seen.length > 0) say({ type: 'seen', seen: seen.splice(0) } satisfies News)
  }
  setInterval(tell, 30)
  const onEvent = (event: TwinboxEvent): void => {
    const plain = 'error' in event ? { ...event, error: sentence(event.error) as never } : event
    seen.push({ at: Date.now(), event: plain })
  }
  const employed = await employ({
    run,
    role,
    options: role === 'claimer' ? { concurrency: 8 } : {},
    onEvent,
    handlers: (_, workerId) => handlers(run, workerId),
  })
  stop = async () => {
    await employed.stop()
    tell()
  }
  await employed.worker.start()
  say({ type: 'ready', workerId: employed.worker.id, url: null } satisfies Ready)
}

/** One for all topics: it writes down what it was given, in the transaction that completes the message. */
function handlers(run: DemoRun, workerId: () => number | null): Parameters<typeof createClaimer>[1] {
  const { effect } = demoSql(run.schema)
  return {
    '#': async ({ id, topic, key, payload }, { client, attempt }) => {
      await client.query(
        effect.text,
        effect.bind({ id, topic, key, hash: hashOf(payload), attempt, worker: workerId() }),
      )
      if (slowMs > 0) await new Promise((resolve) => setTimeout(resolve, slowMs))
    },
  }
}

const end = (code: number): Promise<never> => close(stop).then(() => process.exit(code))

async function obey(order: Order): Promise<void> {
  if (order.type === 'slow') slowMs = order.ms
  else if (order.type === 'proceed') proceed()
  else if (order.type === 'stop') void end(0)
  else await begin(order)
}

obeyParent(obey, () => (isServer ? void end(1) : process.exit(1)))
