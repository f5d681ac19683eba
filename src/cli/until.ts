import { remark } from '../terminal/output.ts'

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
const tellMs = 1000

/**
 * Runs work that goes on in batches. A signal ends it after the batch under way; on a terminal it is told how far it
 * has come.
 */
export async function untilStopped<Result>(
  done: string,
  work: (watch: { signal: AbortSignal; onProgress: (count: number) => void }) => Promise<Result>,
): Promise<{ result: Result; stopped: boolean }> {
  const stop = new AbortController()
  const onSignal = (): void => stop.abort()
  for (const name of signals) process.on(name, onSignal)
  let toldAt = performance.now()
  const onProgress = (count: number): void => {
    if (!process.stderr.isTTY || performance.now() - toldAt < tellMs) return
    toldAt = performance.now()
    remark(`${count} ${done} …`)
  }
  try {
    const result = await work({ signal: stop.signal, onProgress })
    return { result, stopped: stop.signal.aborted }
  } finally {
    for (const name of signals) process.off(name, onSignal)
  }
}

/** Runs work that is done as a whole or not at all. Null, having said so, if a signal came first. */
export async function unlessStopped<Result>(
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result | null> {
  const { result } = await untilStopped('', ({ signal }) =>
    work(signal).catch((error: unknown) => {
      if (signal.aborted && error === signal.reason) return null
      throw error
    }),
  )
  if (result === null) remark('Stopped. Nothing was changed.')
  return result
}
