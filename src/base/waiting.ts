import { setTimeout as sleep } from 'node:timers/promises'

/** Waiting that can be given up. A worker that stops must not sit out a pause of seconds. */

/** Resolves after `ms`, or as soon as the signal aborts. Never rejects. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {})
}

/** Calls `listener` when the signal aborts, at once if it has. Call what it returns to stop listening. */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  if (signal.aborted) listener()
  signal.addEventListener('abort', listener, { once: true })
  return () => signal.removeEventListener('abort', listener)
}

/** Resolves when the signal aborts. */
export function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    onAbort(signal, resolve)
  })
}

/** Waits for the promise, whatever comes of it, but no longer than `ms`. */
export async function atMost(ms: number, promise: Promise<unknown>): Promise<void> {
  const enough = new AbortController()
  const stop = (): void => enough.abort()
  promise.then(stop, stop)
  await pause(ms, enough.signal)
}

/**
 * What the promise gives, unless the signal aborts first; then rejects with the signal's reason, and what comes too
 * late goes to `discard`.
 */
export function within<T>(
  signal: AbortSignal,
  promise: Promise<T>,
  discard?: (late: T) => unknown,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const stopListening = onAbort(signal, () => {
      reject(signal.reason)
      promise.then(discard, () => {})
    })
    promise.then(resolve, reject).finally(stopListening)
  })
}

/**
 * Runs `work` with a signal that aborts after `ms`, or together with `parent`.
 * `AbortSignal.any` would do, but leaks in Node 20 when one of its signals lives as long as the process.
 */
export async function withDeadline<T>(
  parent: AbortSignal,
  ms: number,
  reasons: { readonly late: () => Error; readonly aborted: (reason: unknown) => Error },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(reasons.late()), ms)
  const stopListening = onAbort(parent, () => controller.abort(reasons.aborted(parent.reason)))
  try {
    return await work(controller.signal)
  } finally {
    clearTimeout(timer)
    stopListening()
  }
}
