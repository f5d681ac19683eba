import { AsyncLocalStorage } from 'node:async_hooks'
import type { Loop, LoopOptions } from '../../src/base/loop.ts'

/** A loop of a worker that runs when it is told to, one run at a time as the real one. */
export interface SteppedLoop extends Loop {
  step(): Promise<void>
}

/** Whose loops are being started. */
export const owning = new AsyncLocalStorage<SteppedLoop[]>()

export function startStepped(task: () => Promise<number>, { onError, onRecovered }: LoopOptions): Loop {
  let running: Promise<void> | null = null
  let failures = 0
  let stopped = false
  const run = async (): Promise<void> => {
    try {
      await task()
      if (failures > 0) onRecovered?.()
      failures = 0
    } catch (error) {
      onError(error, ++failures, 0)
    }
  }
  const loop: SteppedLoop = {
    wake() {},
    step: () => (running ??= stopped ? Promise.resolve() : run().finally(() => (running = null))),
    async stop() {
      stopped = true
      await running
    },
  }
  owning.getStore()!.push(loop)
  return loop
}
