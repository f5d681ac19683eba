import { setTimeout as sleep } from 'node:timers/promises'
import type { createClaimer } from '../../src/claimer/claimer.ts'
import type { TransactionContext } from '../../src/claimer/handlers.ts'
import type { Database } from '../../src/database/database.ts'
import { awayText } from '../sql/rules.ts'
import { soakSql } from '../sql/soak.ts'
import type { Message } from '../../src/message/message.ts'
import type { Run } from '../stage/broker.ts'
import { foreignError } from './foreign.ts'
import type { History } from './history.ts'
import { hashOf, topics, type Body } from './message.ts'

const [single, batch, plain] = topics

/** Handlers that write down what they were given, and misbehave where the message asks for it. */
export function handlers(parts: {
  readonly run: Run
  readonly database: Database
  readonly history: History
  /** What handlers without a transaction call first; it may be away. */
  readonly serviceUrl: string
  readonly workerId: () => number | null
  /** How long those take that handle one message in a transaction, beside what they do. */
  readonly slowMs: () => number
}): Parameters<typeof createClaimer>[1] {
  const { run, database, history, serviceUrl, workerId, slowMs } = parts
  const { effect } = soakSql(run.schema)
  const thrown = new Set<number>()

  const values = (messages: readonly Message[], attempt: number, fence: number, worker: number) => {
    const bodies = messages.map(({ payload }) => payload as Body)
    const isPlain = messages[0]!.topic === plain
    return {
      numbers: bodies.map(({ n }) => n),
      ids: messages.map(({ id }) => id),
      topics: messages.map(({ topic }) => topic),
      keys: messages.map(({ key }) => key),
      hashes: bodies.map((body) => hashOf(body)),
      ...{ attempt, fence, worker, plain: isPlain },
    }
  }
  const begin = (messages: readonly Message[], attempt: number, fence: number): number => {
    // Read before anything else: a worker that is given up on comes back under another id.
    const worker = workerId() ?? 0
    history.note('handle', worker, messages.map(({ id }) => id).join(','), attempt, fence)
    return worker
  }
  const misbehave = async ({ n, temper }: Body, attempt: number, signal: AbortSignal): Promise<void> => {
    if (temper === 'poison' || (temper === 'throw' && attempt === 1)) throw foreignError(n)
    if (attempt > 1) return
    if (temper === 'hang') await new Promise((_, reject) => signal.addEventListener('abort', reject))
    if (temper === 'die') {
      history.note('die', n)
      process.kill(process.pid, 'SIGKILL')
      await new Promise(() => {})
    }
  }

  const call = async (id: string, attempt: number, signal: AbortSignal): Promise<void> => {
    try {
      const { status } = await fetch(serviceUrl, { signal })
      if (status !== 204) throw new Error(`HTTP status ${status}`)
    } catch (error) {
      history.note('away', id, attempt)
      throw new Error(awayText, { cause: error })
    }
  }

  const one = async (
    message: Message,
    { client, attempt, fence, signal }: TransactionContext<unknown>,
  ): Promise<void> => {
    const worker = begin([message], attempt, fence)
    // Half of those that fail have written before.
    const body = message.payload as Body
    if (body.n % 2 === 0) await misbehave(body, attempt, signal)
    if (body.temper === 'cut' && attempt === 1) await client.query(soakSql(run.schema).cut)
    await client.query(effect.text, effect.bind(values([message], attempt, fence, worker)))
    if (body.n % 2 === 1) await misbehave(body, attempt, signal)
    if (slowMs() > 0) await sleep(slowMs())
  }

  return {
    [single]: one,
    '#': one,
    [batch]: {
      batch: true,
      batchSize: 50,
      handle: async (
        messages: readonly Message[],
        { client, attempt, fence }: TransactionContext<unknown>,
      ): Promise<void> => {
        const worker = begin(messages, attempt, fence)
        await client.query(effect.text, effect.bind(values(messages, attempt, fence, worker)))
        for (const { payload } of messages) {
          const { n, temper } = payload as Body
          if (temper === 'poison') throw foreignError(n)
          if (temper !== 'throw' || thrown.has(n)) continue
          thrown.add(n)
          throw foreignError(n)
        }
      },
    },
    [plain]: {
      transaction: false,
      handle: async (message, { attempt, fence, signal }) => {
        const worker = begin([message], attempt, fence)
        await call(message.id, attempt, signal)
        await misbehave(message.payload as Body, attempt, signal)
        await database.query(effect, values([message], attempt, fence, worker))
      },
    },
  }
}
