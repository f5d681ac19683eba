import fc from 'fast-check'
import { expect, onTestFinished, test, vi } from 'vitest'
import { createWorker, workerMoves, type Worker, type WorkerState } from '../../src/membership/worker.ts'
import { database, events, useInbox } from '../support/inbox.ts'
import { movedMachines } from '../support/states.ts'
import { asInProduction } from '../support/tripwire.ts'

/** What start and stop do in each state of a worker. */

useInbox()

interface Driven {
  readonly worker: Worker
  /** What of it was called. */
  readonly calls: ('start' | 'stop')[]
  /** Ends its first start that is under way, once there is one. False if there will be none. */
  readonly end: (how: 'well' | 'badly', isStarting?: () => boolean) => Promise<boolean>
  /** All starts end well from now on. */
  readonly endAll: () => void
}

/** A worker whose start takes until it is told how to end. */
function driven(): Driven {
  const calls: ('start' | 'stop')[] = []
  const starts: { readonly resolve: () => void; readonly reject: (error: Error) => void }[] = []
  let waits = true
  const worker = createWorker(
    { database: database.url, onEvent: events.onEvent },
    {
      ...{ kind: 'receiver', consumer: 'c', id: () => null },
      start() {
        calls.push('start')
        return waits ? new Promise((resolve, reject) => starts.push({ resolve, reject })) : Promise.resolve()
      },
      stop: async () => void calls.push('stop'),
    },
  )
  return {
    worker,
    calls,
    async end(how, isStarting = () => true) {
      await vi.waitUntil(() => starts.length > 0 || !isStarting(), { timeout: 20_000, interval: 5 })
      const started = starts.shift()
      if (how === 'well') started?.resolve()
      else started?.reject(new Error('It failed, as told.'))
      return started !== undefined
    },
    endAll() {
      waits = false
      for (const { resolve } of starts) resolve()
    },
  }
}

const stopped = 'This worker was stopped. Create another one.'
test.each<[WorkerState, 'start' | 'stop', WorkerState, ('start' | 'stop')[], string?]>([
  ['idle', 'start', 'running', ['start']],
  ['idle', 'stop', 'stopped', []],
  ['starting', 'start', 'running', ['start']],
  ['starting', 'stop', 'stopped', ['start', 'stop']],
  ['running', 'start', 'running', ['start']],
  ['running', 'stop', 'stopped', ['start', 'stop']],
  ['stopping', 'start', 'stopped', ['start', 'stop'], stopped],
  ['stopping', 'stop', 'stopped', ['start', 'stop']],
  ['stopped', 'start', 'stopped', ['start', 'stop'], stopped],
  ['stopped', 'stop', 'stopped', ['start', 'stop']],
])('%s: after a %s, twice, it is %s in the end', async (from, call, to, calls, refusal) => {
  const machines = movedMachines<WorkerState>()
  const { worker, end, ...told } = driven()
  if (from !== 'idle') {
    const started = worker.start()
    if (from !== 'starting') await Promise.all([started, end('well')])
    if (from === 'stopping' || from === 'stopped') {
      const ended = worker.stop()
      if (from === 'stopped') await ended
    }
    expect(machines[0]!.state).toBe(from)
  }
  const called = Promise.allSettled([worker[call](), worker[call]()])
  if (from === 'starting' || (from === 'idle' && call === 'start')) await end('well')
  for (const outcome of await called) {
    if (refusal === undefined) expect(outcome).toMatchObject({ status: 'fulfilled' })
    else expect(outcome).toMatchObject({ reason: { message: refusal } })
  }
  if (from === 'stopping') await worker.stop()
  expect([machines[0]!.state, told.calls]).toEqual([to, calls])
  await worker.stop()
})

test('a start that fails leaves it idle, and it is started again', async () => {
  const machines = movedMachines<WorkerState>()
  const { worker, end, calls } = driven()
  const failed = Promise.allSettled([worker.start(), worker.start()])
  await end('badly')
  expect(await failed).toMatchObject(Array(2).fill({ reason: { message: 'It failed, as told.' } }))
  // What it had begun was ended.
  expect([machines[0]!.state, calls]).toEqual(['idle', ['start', 'stop']])
  await Promise.all([worker.start(), end('well')])
  expect(machines[0]!.state).toBe('running')
  await worker.stop()
  expect(calls).toEqual(['start', 'stop', 'start', 'stop'])
})

test('a start that fails while it is to stop ends it, once', async () => {
  const machines = movedMachines<WorkerState>()
  const { worker, end, calls } = driven()
  const failed = Promise.allSettled([worker.start()])
  const ended = worker.stop()
  await end('badly')
  await ended
  expect(await failed).toMatchObject([{ reason: { message: 'It failed, as told.' } }])
  expect([machines[0]!.state, calls]).toEqual(['stopped', ['start', 'stop']])
})

test('whatever is called in whatever order: no impossible move, and each start has its stop', async () => {
  const reached = new Set<WorkerState>()
  const machines = movedMachines<WorkerState>()
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom('start', 'stop', 'well', 'badly', 'wait'), { maxLength: 12 }),
      async (history) => {
        const nr = machines.length
        const { worker, end, endAll, calls } = driven()
        const called: Promise<unknown>[] = []
        for (const step of [...history, 'start', 'stop'] as const) {
          if (step === 'start' || step === 'stop') called.push(worker[step]().catch(() => {}))
          else if (step === 'wait') await new Promise((wake) => setImmediate(wake))
          else await end(step, () => machines[nr]?.is('starting') === true)
          reached.add(machines[nr]?.state ?? 'idle')
        }
        endAll()
        await Promise.all(called)
        reached.add(machines[nr]!.state)
        expect(machines[nr]!.state).toBe('stopped')
        expect(calls.filter((call) => call === 'start').length).toBe(calls.length / 2)
      },
    ),
    { numRuns: 50 },
  )
  expect([...reached].toSorted()).toEqual(Object.keys(workerMoves).toSorted())
})

test('in production an impossible move is an event, and the worker is stopped as ever', async () => {
  onTestFinished(asInProduction())
  const machines = movedMachines<WorkerState>()
  const { worker, end } = driven()
  await Promise.all([worker.start(), end('well')])
  expect(machines[0]!.go('idle')).toBe(false)
  expect(events.of('trouble')).toMatchObject([
    { error: { code: 'IMPOSSIBLE_MOVE' }, doing: 'starting or stopping' },
  ])
  await worker.stop()
  expect(machines[0]!.state).toBe('stopped')
})
