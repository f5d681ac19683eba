import type { AnyConsumerConfig } from '../config.ts'
import type { WorkerKind } from '../base/events.ts'
import type { Worker, WorkerOptions } from '../membership/worker.ts'
import { createWorkers } from '../workers.ts'
import { createEndpoint, type Endpoint } from './endpoint.ts'
import { UsageError } from '../terminal/failure.ts'
import type { Flags } from '../terminal/flags.ts'
import { createLog, type Log } from './log.ts'
import { chooseConsumers, readSettings, type Settings } from './settings.ts'

export type WorkerCommand = 'relay' | 'receive' | 'claim' | 'work'

const kindsOf: Readonly<Record<WorkerCommand, readonly WorkerKind[]>> = {
  relay: ['relay'],
  receive: ['receiver'],
  claim: ['claimer'],
  work: ['receiver', 'claimer', 'relay'],
}

/** Runs the workers of one command until a signal stops them. */
export async function runWorkers(command: WorkerCommand, flags: Flags): Promise<0 | 1> {
  let place = ''
  const settings = await readSettings(flags, (text) => (place = text))
  const log = createLog({ json: flags.json ?? false, verbose: flags.verbose ?? false })
  const endpoint = await openEndpoint(flags, settings)
  const shared: WorkerOptions = {
    database: settings.database(),
    schema: settings.schema,
    preparedStatements: settings.config.preparedStatements,
    coordination: settings.coordination(),
    onEvent(event) {
      log.onEvent(event)
      endpoint?.onEvent(event)
    },
    telemetry: settings.config.telemetry,
    redactError: settings.config.redactError,
  }
  const broker = command === 'claim' ? null : await settings.openBroker()
  const workers: Worker[] = []
  try {
    const consumers = command === 'relay' ? [] : consumersFor(command, flags, settings)
    const { relay, topics } = settings.config
    workers.push(...createWorkers({ kinds: kindsOf[command], consumers, relay, topics, broker, shared }))
    log.say(place)
    await endpoint?.open(workers, log)
    return await untilSignal(workers, log)
  } finally {
    await Promise.allSettled(workers.map((worker) => worker.stop()))
    await endpoint?.close()
    await broker?.close()
  }
}

/** Nothing listens unless it is asked for. */
async function openEndpoint(flags: Flags, { database, schema }: Settings): Promise<Endpoint | null> {
  const { metricsPort: port, metricsHost: host = '127.0.0.1', stuckAfter: stuckAfterMs } = flags
  if (port === undefined) return null
  const token = process.env['TWINBOX_METRICS_TOKEN']
  // A secret that was not there when it was to be filled in: nobody wants everybody to be let in for that.
  if (token === '')
    throw new UsageError(
      'TWINBOX_METRICS_TOKEN is empty. Give it a token, or unset it to serve metrics without one.',
    )
  return createEndpoint({ database: database(), schema, port, host, stuckAfterMs, token })
}

function consumersFor(
  command: WorkerCommand,
  flags: Flags,
  { config }: Settings,
): [string, AnyConsumerConfig][] {
  const chosen = chooseConsumers(config, flags.consumer)
  if (command === 'receive' && flags.topic !== undefined) {
    if (flags.consumer === undefined)
      throw new UsageError('--topic needs --consumer, to say who receives it.')
    const known = chosen[0]?.[1] ?? { handlers: {} }
    return [[flags.consumer, { ...known, topics: flags.topic }]]
  }
  if (chosen.length === 0) {
    const instead = command === 'receive' ? ', or give --consumer NAME and --topic PATTERN' : ''
    throw new UsageError(
      `No consumer to ${command === 'work' ? 'work for' : command + ' for'}: describe ${flags.consumer === undefined ? 'one' : `"${flags.consumer}"`} under "consumers" in twinbox.config.{js,mjs,ts}${instead}.`,
    )
  }
  return chosen
}

/** The first signal stops in good order, the second at once. */
async function untilSignal(workers: readonly Worker[], log: Log): Promise<0 | 1> {
  let stop: () => void = () => {}
  const asked = new Promise<void>((resolve) => (stop = resolve))
  let signals = 0
  const onSignal = (signal: NodeJS.Signals): void => {
    signals++
    if (signals > 1) {
      log.say('Stopped at once. What was under way will be taken over by others.')
      process.exit(1)
    }
    log.say(`${signal}: stopping when what is under way has ended. Once more to stop at once.`)
    stop()
  }
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const name of names) process.on(name, onSignal)
  try {
    for (const worker of workers) {
      if (signals > 0) break
      await worker.start()
    }
    await asked
    await Promise.all(workers.map((worker) => worker.stop()))
    return 0
  } finally {
    for (const name of names) process.off(name, onSignal)
  }
}
