/**
 * A task that runs again and again until it is stopped: the pulse of every worker.
 *
 * One run at a time. The task says how long to wait before the next run; `wake` cuts the wait short. An error never
 * ends the loop: it is reported, and the next run waits longer after each failure in a row.
 */
export interface Loop {
  /** Runs the task as soon as it is not running. Cheap; call it on any hint. */
  wake(): void
  /** Lets the run under way end, and runs no more. */
  stop(): Promise<void>
}

export interface LoopOptions {
  /** Told of each failure and how long the loop will wait. */
  readonly onError: (error: unknown, failures: number, retryInMs: number) => void
  /** Told of the first success after failures. */
  readonly onRecovered?: (() => void) | undefined
}

const retryMsMin = 50
const retryMsMax = 2000

/**
 * How long to wait after a failure before the next try, in milliseconds: anything from `min` on, up to a bound that
 * doubles with each failure in a row. `failures` counts from 1.
 *
 * Full jitter, from the first failure on: one restart of a server is met by a whole fleet at the same moment, and no
 * message waits for its turn here.
 */
export function reconnectMs(failures: number, min: number, max: number, chance = Math.random()): number {
  return min + chance * (Math.min(max, min * 2 ** Math.min(failures, 52)) - min)
}

export function startLoop(task: () => Promise<number>, options: LoopOptions): Loop {
  let stopping = false
  let awake = false
  let endWait: (() => void) | null = null
  let failures = 0

  const wait = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      if (awake || stopping) return resolve()
      const timer = setTimeout(end, ms)
      endWait = end
      function end(): void {
        clearTimeout(timer)
        endWait = null
        resolve()
      }
    })

  const run = async (): Promise<void> => {
    while (!stopping) {
      awake = false
      let pauseMs: number
      try {
        pauseMs = await task()
        if (failures > 0) {
          failures = 0
          options.onRecovered?.()
        }
        // Also without a pause the event loop must come round, or timers and sockets starve.
        if (pauseMs <= 0) await new Promise((resolve) => setImmediate(resolve))
      } catch (error) {
        failures++
        awake = false
        pauseMs = reconnectMs(failures, retryMsMin, retryMsMax)
        options.onError(error, failures, pauseMs)
      }
      if (pauseMs > 0) await wait(pauseMs)
    }
  }
  const running = run()

  return {
    wake() {
      awake = true
      // While failing, a hint must not turn the backoff into a busy loop.
      if (failures === 0) endWait?.()
    },
    async stop() {
      stopping = true
      endWait?.()
      await running
    },
  }
}
