import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { TwinboxEvent } from '../../src/base/events.ts'
import type { Broker } from '../../src/brokers/broker.ts'
import type { Worker } from '../../src/membership/worker.ts'
import { nameOf, played, type Cell, type cells } from './cells.ts'
import { publishersN, sceneOf } from './scenes.ts'
import { Stage } from './stage.ts'
import { makeBroker, makeWorker, type BrokerSpec, type Program } from './worker.ts'

/** Plays cells of the kill matrix, see `matrix.test.ts`. */

const { REPEATS } = process.env
const repeats = Number(REPEATS ?? 1) - 1

/** Those that live: workers of this process. */
class Crew {
  readonly #stage: Stage
  readonly #broker: Broker
  readonly #workers: Worker[] = []
  readonly events: TwinboxEvent[] = []

  constructor(stage: Stage) {
    this.#stage = stage
    this.#broker = makeBroker(stage.broker, stage.database.url)
  }

  async start(role: Program['role'], program: Partial<Program> = {}): Promise<void> {
    const worker = makeWorker(this.#stage.describe({ ...program, role }), this.#broker, {
      onEvent: (event) => void this.events.push(event),
    })
    this.#workers.push(worker)
    await worker.start()
  }

  async stop(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.stop()))
    await this.#broker.close()
  }
}

const workers = ['relay', 'claimer'] as const

interface Outcome {
  readonly faults: readonly string[]
  readonly attempts: readonly number[]
  readonly dropped: number
}

async function play(cell: Cell, stage: Stage, crew: Crew, copies: number): Promise<Outcome> {
  const { role, at, hit = 1, given = 'plain', key, attempt } = cell
  const scene = sceneOf(given)
  const { messages, ...program } = scene.program ?? {}
  const publications = messages?.map((message) => ({ ...message, topic: stage.topic }))
  const described = { ...program, ...(publications === undefined ? {} : { messages: publications }), role }
  const startOthers = async (): Promise<void> => {
    // The subscription has to be there before anything is sent.
    if (role !== 'receiver') await crew.start('receiver')
    await Promise.all(workers.filter((other) => other !== role).map((other) => crew.start(other)))
  }
  // They prune as well, and could be faster.
  if (role !== 'upkeep') await startOthers()
  await scene.before?.(stage, cell)
  const victim = stage.start({ ...described, ...scene.victim, dieAt: { point: at, hit } })
  // One that never gets there would keep its workers, and their connections, from all tests after it.
  setTimeout(() => victim.kill('SIGKILL'), 80_000).unref()
  await Promise.race([victim.started.catch(() => {}), victim.ended])
  if (scene.over !== undefined) await scene.over(stage, cell, victim)
  else if (role !== 'publisher') await stage.publish([key])
  expect(await victim.ended).toBe('SIGKILL')
  expect(victim.lastWords).toBe(at)

  if (role === 'publisher' && given === 'deduped') expect(await stage.start(described).ended).toBe(0)
  if (role === 'upkeep') await startOthers()
  else if (role !== 'publisher') await crew.start(role, program)
  await stage.publish(['a', null, 'b'])
  await scene.after?.(stage, cell)
  await stage.drained()
  const n = role === 'publisher' ? publishersN : attempt === null ? -1 : 0
  const handled = await stage.database.query<{ attempt: number }>(
    'select attempt from effects where n = $1 order by at',
    [n],
  )
  const dropped = (): number =>
    [...crew.events, ...victim.events].reduce(
      (sum, event) => sum + (event.type === 'received' ? event.duplicates : 0),
      0,
    )
  // The second copy may come from another partition, after all that is waited for above.
  for (let looks = 0; dropped() < copies && looks < 100; looks++) await sleep(100)
  return {
    faults: await stage.faults(),
    attempts: handled.map((effect) => effect.attempt),
    dropped: dropped(),
  }
}

/** What has to become of it. */
function expected({ attempt, or, effects = 1, dropped = 0 }: Cell, kind: keyof typeof cells): Outcome {
  return {
    faults: effects === 1 ? [] : [expect.stringMatching(/^duplicateEffects: .*\(1\)$/)],
    attempts: [
      ...Array.from({ length: effects - 1 }, () => 1),
      ...(attempt === null ? [] : [expect.toBeOneOf([attempt, or ?? attempt])]),
    ],
    // There it is the relay's own statement that drops them.
    dropped: kind === 'postgres' ? 0 : dropped,
  }
}

/** @param few one of those that differ by their key alone */
export function suite(
  kind: keyof typeof cells,
  spec: () => BrokerSpec | Promise<BrokerSpec>,
  few = false,
): void {
  const all = REPEATS !== undefined
  const chosen = played(kind, all).filter(({ key }) => !few || all || key !== null)
  describe.concurrent('killed', () => {
    for (const cell of chosen) {
      test(`a ${nameOf(cell)}`, { repeats }, async () => {
        const stage = await Stage.open(await spec())
        const crew = new Crew(stage)
        try {
          const wanted = expected(cell, kind)
          expect(await play(cell, stage, crew, wanted.dropped)).toEqual(wanted)
        } finally {
          await crew.stop()
          await stage.close()
        }
      })
    }
  })
}
