import { describe, expect, test } from 'vitest'
import { Abort } from '../../src/claimer/abort.ts'

const never = new Promise<never>(() => {})
const reason = new Error('enough')

describe('an abort', () => {
  test('gives a signal to who asks, before and after', () => {
    const abort = new Abort()
    const early = abort.signal
    expect(early.aborted).toBe(false)
    abort.abort(reason)
    abort.abort(new Error('later'))
    expect(early.reason).toBe(reason)
    const late = new Abort()
    late.abort(reason)
    expect(late.signal.aborted).toBe(true)
    expect(late.signal.reason).toBe(reason)
  })

  test('ends the wait for work, and what the work does then is nobody’s matter', async () => {
    const abort = new Abort()
    const waits = [abort.unless(never), abort.unless(Promise.resolve().then(() => never))]
    abort.abort(reason)
    for (const wait of waits) await expect(wait).rejects.toBe(reason)
    await expect(abort.unless(Promise.resolve(1))).rejects.toBe(reason)
    await expect(abort.unless(Promise.reject(new Error('unheard')))).rejects.toBe(reason)
  })

  test('is not heard where nobody waits any more', async () => {
    const abort = new Abort()
    expect(await abort.unless(Promise.resolve(1))).toBe(1)
    await expect(abort.unless(Promise.reject(reason))).rejects.toBe(reason)
    let heard = 0
    const listener = (): void => void heard++
    abort.listen(listener)
    abort.unlisten(listener)
    abort.abort(reason)
    expect(heard).toBe(0)
    abort.listen(listener)
    expect(heard).toBe(1)
  })
})
