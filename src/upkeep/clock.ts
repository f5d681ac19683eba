import { Cron } from 'croner'

export interface Clock {
  /** Rings no more. */
  stop(): Promise<void>
}

/**
 * Calls `ring` at this second of each minute, by node-cron. A tick that a busy event loop has missed is made up for by the next one: nothing
 * is printed into the user's output for it.
 *
 * node-cron computes its own path when it is loaded, and in a bundle of CommonJS there is none: there croner rings, which reads the
 * schedules. Loaded any earlier, node-cron would end such a program at its first line.
 */
export function everyMinute(second: number, ring: () => Promise<void>): Clock {
  const expression = `${second} * * * * *`
  const started = import('node-cron').then(
    ({ schedule }) => {
      const task = schedule(expression, ring, { suppressMissedWarning: true })
      return () => task.destroy()
    },
    () => {
      const cron = new Cron(expression, ring)
      return () => cron.stop()
    },
  )
  return {
    stop: async () => {
      const end = await started
      await end()
    },
  }
}
