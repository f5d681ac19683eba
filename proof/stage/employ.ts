import type { OnEvent } from '../../src/base/events.ts'
import type { Broker } from '../../src/brokers/broker.ts'
import { createClaimer } from '../../src/claimer/claimer.ts'
import { Database } from '../../src/database/database.ts'
import type { Worker } from '../../src/membership/worker.ts'
import { createReceiver } from '../../src/receiver/receiver.ts'
import { createRelay } from '../../src/relay/relay.ts'
import { openCoordination } from '../../src/terminal/coordination.ts'
import { trialOf, type Run } from './broker.ts'
import type { Detour } from './detour.ts'

export interface Employment {
  readonly run: Run
  /** Connections to these go elsewhere. */
  readonly detours?: readonly Detour[]
  readonly role: 'relay' | 'receiver' | 'claimer'
  /** Beside what a worker has by default. */
  readonly options: Readonly<Record<string, unknown>>
  readonly onEvent: OnEvent
  /** Of a claimer; the worker's id changes when it is given up on and comes back. */
  readonly handlers: (
    database: Database,
    workerId: () => number | null,
  ) => Parameters<typeof createClaimer>[1]
  /** Comes between the worker and its broker. */
  readonly over?: (broker: Broker) => Broker
}

/** A worker of a run, not started yet, over connections of its own, and how to end it with them. */
export async function employ({
  run,
  detours,
  role,
  options,
  onEvent,
  handlers,
  over = (broker) => broker,
}: Employment): Promise<{ readonly worker: Worker; readonly stop: () => Promise<void> }> {
  const database = new Database(run.databaseUrl, { schema: run.schema, poolSize: 14 })
  const trial = await trialOf(run, database, detours)
  const broker = role === 'claimer' ? null : over(trial.open())
  const { insecure, zookeeper } = run
  const coordination =
    zookeeper === null ? undefined : (openCoordination({ zookeeper, insecure }) ?? undefined)
  const shared = { ...options, database, coordination, onEvent }
  const { consumer } = run
  const worker: Worker =
    role === 'relay'
      ? createRelay({ ...shared, broker: broker! })
      : role === 'receiver'
        ? createReceiver({ ...shared, broker: broker!, consumer, ...trial.receiving })
        : createClaimer(
            { ...shared, consumer },
            handlers(database, () => worker.id),
          )
  const stop = async (): Promise<void> => {
    await worker.stop()
    await broker?.close()
    await database.close()
  }
  return { worker, stop }
}
