import { setTimeout as sleep } from 'node:timers/promises'
import type { Task } from '../race/entrant.ts'
import { message, type RaceMessage } from '../race/messages.ts'
import type { Tally } from '../race/tally.ts'

/** Messages that are published while others work: so many per second at first, and then all the rest at once. */

const tickMs = 25

/** @param publish writes messages in one transaction */
export async function publishSteadily(
  task: Task,
  tally: Tally,
  publish: (messages: readonly RaceMessage[]) => Promise<void>,
): Promise<void> {
  const steady = steadyCount(task)
  const startedAt = tally.now
  let next = 0
  while (next < steady) {
    const due = Math.min(steady, Math.floor(((tally.now - startedAt) / 1000) * task.perSecond!))
    if (due > next) await publish(range(next, due, task, tally.now))
    next = Math.max(next, due)
    await sleep(tickMs)
  }
  for (; next < task.messages; next += task.batchSize) {
    await publish(range(next, Math.min(task.messages, next + task.batchSize), task, tally.now))
  }
}

/** How many of the messages come one after the other. */
export const steadyCount = ({ perSecond = 0, steadyMs = 0 }: Task): number =>
  Math.floor((perSecond * steadyMs) / 1000)

const range = (from: number, to: number, task: Task, at: number): RaceMessage[] =>
  Array.from({ length: to - from }, (_, index) => {
    const made = message(from + index, task)
    return { ...made, payload: { ...made.payload, at } }
  })

/** One at a time, with a pause that nobody can foresee, so that workers are idle when it comes. */
export async function publishSeldom(
  task: Task,
  tally: Tally,
  publish: (messages: readonly RaceMessage[]) => Promise<void>,
): Promise<void> {
  // Those who wait for the messages start just now, and the first ones would measure that.
  await sleep(2000)
  for (let n = 0; n < task.messages; n++) {
    await sleep(50 + Math.random() * 100)
    await publish(range(n, n + 1, task, tally.now))
  }
}
