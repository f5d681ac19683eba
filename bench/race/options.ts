import { Option, type Command } from 'commander'
import { count, type Common } from '../scenario.ts'
import type { Task } from './entrant.ts'

/** The options of every race. */
export interface RaceOptions extends Common {
  readonly rounds: number
  readonly messages: number
  readonly processes: number
  readonly concurrency: number
  readonly batchSize: number
  readonly payload: Task['payload']
  readonly quick?: boolean
  readonly only?: readonly string[]
}

interface Defaults {
  readonly messages: number
  readonly processes?: number
  readonly concurrency?: number
  readonly batchSize?: number
}

export function addRaceOptions(
  command: Command,
  { messages, processes = 2, concurrency = 24, batchSize = 500 }: Defaults,
): void {
  command
    .option('-r, --rounds <number>', 'how often each runs', count(1, 1000), 5)
    .option('-n, --messages <number>', 'how many messages in a lap', count(10, 10_000_000), messages)
    .option('--processes <number>', 'how many processes of each', count(1, 64), processes)
    .option(
      '--concurrency <number>',
      'handlers, or connections, of each process',
      count(1, 1000),
      concurrency,
    )
    .option('--batch-size <number>', 'most messages in one batch', count(1, 10_000), batchSize)
    .addOption(
      new Option('--payload <kind>', '215 bytes of JSON, or webhooks as GitHub sends them')
        .choices(['small', 'github'])
        .default('small'),
    )
    .option(
      '--only <name>',
      'of those that run, only this one (and others, if given again), to look at it; no goal is judged',
      (name: string, names: readonly string[] | undefined) => [...(names ?? []), name],
    )
    .option('--quick', 'so few messages that it only shows that everything works')
}

const quickMessages = 400

export function taskOf(options: RaceOptions, of: Pick<Task, 'keys'> & Partial<Task>): Task {
  const { processes, concurrency, batchSize, payload, quick } = options
  const messages = quick === true ? Math.min(quickMessages, options.messages) : options.messages
  return { messages, processes, concurrency, batchSize, payload, ...of }
}
