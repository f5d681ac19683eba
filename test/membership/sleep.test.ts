import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { TwinboxEvent } from '../../src/base/events.ts'
import { gotUp } from '../../src/database/sql/sleep.ts'
import { Session } from '../../src/membership/session.ts'
import { Sleep, sleepMoves, type SleepState } from '../../src/membership/sleep.ts'
import { database, inbox, useInbox } from '../support/inbox.ts'
import { movedMachines } from '../support/states.ts'
import { asInProduction } from '../support/tripwire.ts'

/** The states of a sleeper. How it sleeps among others stands in `test/sleep.test.ts`. */

type Step =
  | 'look in vain'
  | 'find'
  | 'hear'
  | 'hear that it got up'
  | 'answer'
  | 'fail'
  | 'drop'
  | 'other locks'
  | 'other unlocks'
const steps: readonly Step[] = [
  ...(['look in vain', 'find', 'hear', 'hear that it got up', 'answer', 'fail', 'drop'] as const),
  ...(['other locks', 'other unlocks', 'look in vain', 'answer', 'answer'] as const),
]

test('whatever happens in whatever order: no impossible move, and it holds the lock exactly while it watches', async () => {
  const reached = new Set<SleepState>()
  await fc.assert(
    fc.asyncProperty(fc.array(fc.constantFrom(...steps), { maxLength: 40 }), async (history) => {
      vi.useFakeTimers({ toFake: ['performance'] })
      try {
        /** A server with one lock that a session may take several times, as Postgres has it. */
        let locks = 0
        let otherLocks = false
        let asked: { readonly answer: () => void; readonly fail: () => void }[] = []
        const ask = (watches: boolean): Promise<{ ours: boolean; watched: boolean }> =>
          new Promise((resolve, reject) => {
            const answer = (): void => {
              const ours = watches && !otherLocks
              if (ours) locks++
              if (!watches && locks > 0) locks--
              resolve({ ours, watched: otherLocks })
            }
            asked.push({ answer, fail: () => reject(new Error('gone')) })
          })
        const sleep = new Sleep(
          { sessions: true },
          { isOpen: true, watch: () => ask(true), unwatch: () => void ask(false).catch(() => {}) },
          { consumer: 'c', emit: () => {}, worker: { onWoken: () => {} } },
        )
        const next = async (how: 'answer' | 'fail'): Promise<void> => {
          asked.shift()?.[how]()
          await new Promise((resolve) => setImmediate(resolve))
        }
        const drop = (): void => {
          locks = 0
          for (const { fail } of asked.splice(0)) fail()
          sleep.forget()
        }
        for (const step of history) {
          if (step === 'look in vain') {
            vi.advanceTimersByTime(1500)
            sleep.pause(100)
          } else if (step === 'find') {
            for (let times = 0; times < 30; times++) {
              vi.advanceTimersByTime(1)
              sleep.stir()
            }
          } else if (step === 'hear') sleep.hear('c')
          else if (step === 'hear that it got up') sleep.hear(gotUp('c'))
          else if (step === 'answer') await next('answer')
          // A session that has failed is dropped.
          else if (step === 'fail' || step === 'drop') drop()
          else otherLocks = step === 'other locks' && locks === 0
          reached.add(sleep.state)
          if (sleep.state === 'watching') expect(locks).toBeGreaterThan(0)
        }
        while (asked.length > 0) await next('answer')
        expect([sleep.state, locks]).toEqual([sleep.state, sleep.state === 'watching' ? 1 : 0])
        asked = []
      } finally {
        vi.useRealTimers()
      }
    }),
    // With 500, one state was not reached in 3 of 100 runs.
    { numRuns: 3000 },
  )
  expect([...reached].toSorted()).toEqual(Object.keys(sleepMoves).toSorted())
})

describe('in production', () => {
  useInbox()

  test('an impossible move is an event, and the lock by which others are woken is given back', async () => {
    onTestFinished(asInProduction())
    const machines = movedMachines<SleepState>()
    const events: TwinboxEvent['type'][] = []
    const session = new Session(inbox, {
      ...{ onEnd: () => {}, onGone: () => {}, onNotified: () => {} },
    })
    await session.open()
    onTestFinished(() => session.end())
    const sleep = new Sleep(inbox, session, {
      ...{ consumer: 'lost', worker: { onWoken: () => {} }, emit: ({ type }) => void events.push(type) },
    })
    const locks = async (): Promise<number> =>
      (
        await database.query(
          "select from pg_locks where locktype = 'advisory' and objsubid = 2 and database = (select oid from pg_database where datname = current_database())",
        )
      ).length
    await vi.waitUntil(() => (sleep.pause(100), sleep.state === 'watching'), 10_000)
    expect(await locks()).toBe(1)
    expect(machines[0]!.go('checking')).toBe(false)
    expect([sleep.state, events]).toEqual(['awake', ['trouble']])
    await vi.waitUntil(async () => (await locks()) === 0, 10_000)
    // And sleeps again as ever.
    await vi.waitUntil(() => (sleep.pause(100), sleep.state === 'watching'), 10_000)
  })
})
