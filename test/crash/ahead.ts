import { expect } from 'vitest'
import { makeBroker, makeWorker, type Program } from './worker.ts'
import { Stage } from './stage.ts'

/** What a process has done when it is killed in the middle of a key's backlog: with a window, or with a run. */

export const keyWindow = 100
export const runSize = 16

export interface Kill {
  readonly at: string
  readonly hit: number
}

/** Points at which a claimer of each kind can die, with how often they are come by until the backlog is handled. */
export const points = {
  window: [
    'claimer.before_handle',
    'claimer.before_settle',
    'before completion.complete',
    'after completion.complete',
  ],
  run: [
    'claimer.before_handle',
    'claimer.before_settle',
    'before complete_and_commit',
    'after complete_and_commit',
  ],
} as const

interface Effect {
  readonly n: number
  readonly key: string
  readonly worker: number
}

const backlog = 200

/** Kills one claimer there, has another one go on, and gives what was handled. */
async function kill(
  { at, hit }: Kill,
  program: Pick<Program, 'handling' | 'options'>,
): Promise<{ readonly stage: Stage; readonly effects: readonly Effect[]; readonly victim: number }> {
  const stage = await Stage.open()
  const broker = makeBroker(stage.broker, stage.database.url)
  const workers = (['receiver', 'relay'] as const).map((role) =>
    makeWorker(stage.describe({ role }), broker, { onEvent: () => {} }),
  )
  try {
    for (const worker of workers) await worker.start()
    await stage.publish(Array.from({ length: backlog }, (_, n) => (n % 10 === 9 ? `k${n}` : 'hot')))
    await stage.until(`select count(*) = ${backlog} as done from twinbox.inbox`)
    const victim = stage.start({ role: 'claimer', ...program, dieAt: { point: at, hit } })
    expect(await victim.ended).toBe('SIGKILL')
    expect(victim.lastWords).toBe(at)
    const successor = makeWorker(stage.describe({ role: 'claimer', ...program }), broker, {
      onEvent: () => {},
    })
    workers.push(successor)
    await successor.start()
    await stage.drained()
    return {
      stage,
      victim: victim.events[0]!.workerId!,
      effects: await stage.database.query<Effect>('select n, key, worker from effects order by at'),
    }
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()))
    await broker.close()
  }
}

/**
 * Nothing is lost, each of the two has handled the key in order without a gap, and no more than a window is repeated. Gives how many
 * messages were, of all keys: which of them the killed completion had is not known.
 */
export async function killInWindow(at: Kill): Promise<number> {
  const { stage, effects, victim } = await kill(at, { handling: 'outside', options: { keyWindow } })
  try {
    const ofHot = effects.filter(({ key }) => key === 'hot')
    const [first = [], second = []] = [true, false].map((isFirst) =>
      ofHot.filter(({ worker }) => (worker === victim) === isFirst).map(({ n }) => n),
    )
    const hot = [...new Set(ofHot.map(({ n }) => n))].toSorted((a, b) => a - b)
    // A suffix of what the first has handled, and all that follows.
    expect(first).toEqual(hot.slice(0, first.length))
    expect(second).toEqual(hot.slice(hot.length - second.length))
    const repeated = first.length + second.length - hot.length
    expect(repeated).toBeGreaterThanOrEqual(0)
    expect(repeated).toBeLessThanOrEqual(keyWindow)
    // Of the other keys, which have one message each, that one may be repeated, and once.
    const others = effects.filter(({ key }) => key !== 'hot')
    expect(new Set(others.map(({ n, worker }) => `${n} ${worker}`)).size).toBe(others.length)
    const faults = await stage.faults()
    expect(faults.filter((fault) => !/^(duplicateEffects|orderViolations)/.test(fault))).toEqual([])
    return repeated + others.length - new Set(others.map(({ n }) => n)).size
  } finally {
    await stage.close()
  }
}

/** Each message has to be handled once, and in order: of a run all is done, or nothing. Gives what was not so. */
export async function killInRun(at: Kill): Promise<readonly string[]> {
  const { stage } = await kill(at, { options: { runSize, concurrency: 2 } })
  try {
    return await stage.faults()
  } finally {
    await stage.close()
  }
}
