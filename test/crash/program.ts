import { writeSync } from 'node:fs'
import pg from 'pg'
import { say } from '../../proof/stage/child.ts'
import type { Ready } from '../../proof/stage/crew.ts'
import { Database } from '../../src/database/database.ts'
import type { TwinboxEvent } from '../../src/base/events.ts'
import { noFailpoint } from '../../src/base/failpoint.ts'
import { layTripwire } from '../../src/base/state.ts'
import { createOutbox } from '../../src/outbox/outbox.ts'
import { startPruning, type PruneTask } from '../../src/upkeep/prune.ts'
import { arm } from './dying.ts'
import { makeBroker, makeWorker, type Parts, type Program } from './worker.ts'

/** The process that a crash test kills: one worker, which may be told at which point to die. */
export interface Said {
  readonly type: 'event'
  readonly event: TwinboxEvent
  readonly at: number
}

async function main(program: Program): Promise<void> {
  const failpoint = program.dieAt === undefined ? noFailpoint : arm(program.dieAt)
  const telemetry = await telemetryOf(program)
  if (program.role === 'publisher') return publish(program, telemetry)
  if (program.role === 'upkeep') return prune(program)
  const broker = makeBroker(program.broker ?? { kind: 'postgres' }, program.database)
  const onEvent = (event: TwinboxEvent): void =>
    say({
      type: 'event',
      at: Date.now(),
      event: JSON.parse(JSON.stringify(event)) as TwinboxEvent,
    } satisfies Said)
  const worker = makeWorker(program, broker, { onEvent, failpoint, telemetry })
  const stop = async (): Promise<void> => {
    await worker.stop()
    await broker.close()
    endByItself()
  }
  process.once('SIGTERM', () => void stop())
  process.once('disconnect', () => process.exit())
  const die = (error: unknown): never => {
    writeSync(2, `${String(error)}\n`)
    return process.exit(70)
  }
  process.on('unhandledRejection', die)
  layTripwire(die)
  await worker.start()
  say({ type: 'ready', workerId: worker.id, url: null } satisfies Ready)
}

/** Nothing of ours may keep a process alive that has stopped. */
function endByItself(): void {
  process.removeAllListeners('disconnect')
  process.disconnect?.()
  setTimeout(() => {
    writeSync(2, `Still alive 2 s after it had stopped: ${process.getActiveResourcesInfo().join(', ')}\n`)
    process.exit(70)
  }, 2000).unref()
}

async function telemetryOf({ otlp, role }: Program): Promise<Parts['telemetry']> {
  if (otlp === undefined) return undefined
  const { otlpExporter, startSdk } = await import('../support/otlp.ts')
  const { openTelemetry } = await import('../../src/observe/opentelemetry.ts')
  const tracerProvider = startSdk(role, otlpExporter(otlp))
  const own = tracerProvider.getTracer('handler')
  return { ...openTelemetry({ tracerProvider }), work: () => own.startSpan('work').end() }
}

/** Notes in the ledger, in the same transaction, what it publishes. Of a duplicate it notes nothing. */
async function publish({ database, messages = [] }: Program, telemetry: Parts['telemetry']): Promise<void> {
  const client = new pg.Client({ connectionString: database })
  await client.connect()
  // What a client publishes first is not prepared, and has no name by which a death could find it.
  await client.query('begin')
  await createOutbox().publishMany(client, messages)
  await client.query('rollback')
  await client.query('begin')
  for (const message of messages) {
    const { id, duplicate } = await createOutbox({ telemetry }).publish(client, message)
    const { n } = message.payload as { n: number }
    if (duplicate) continue
    await client.query('insert into public.ledger (id, key, n) values ($1, $2, $3)', [
      id,
      message.key ?? null,
      n,
    ])
  }
  await client.query('commit')
  await client.end()
  process.disconnect?.()
}

async function prune({ database: url, options }: Program): Promise<void> {
  const database = new Database(url)
  const tasks = [options] as unknown as PruneTask[]
  const pruning = startPruning(database, tasks, () => {})
  await pruning.run()
  await pruning.stop()
  await database.close()
  process.disconnect?.()
}

process.once('message', (program: Program) => void main(program))
