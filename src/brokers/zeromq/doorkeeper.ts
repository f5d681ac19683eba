import type * as Zeromq from 'zeromq'
import type { Context, Reply } from 'zeromq'
import { z85, type ZeromqCurve } from './curve.ts'

/** Where ZeroMQ asks, of each context on its own: https://rfc.zeromq.org/spec/27/ */
const place = 'inproc://zeromq.zap.01'

/**
 * Says of each key whether it may come in. Without anybody to ask, ZeroMQ would let in every key. The list is asked for each time,
 * so that a key that has been added or removed counts from the next connection on; while it cannot be had, nobody comes in.
 */
export async function openDoor(
  { Reply: Asked }: typeof Zeromq,
  context: Context,
  curve: () => Promise<ZeromqCurve>,
): Promise<{ close(): void }> {
  const asked: Reply = new Asked({ context, linger: 0 })
  await asked.bind(place)
  const answer = async (): Promise<void> => {
    for await (const [version, request, , , , mechanism, key] of asked) {
      const allowed = mechanism?.toString() === 'CURVE' && key?.length === 32 && (await isAllowed(key, curve))
      await asked.send([
        version ?? '1.0',
        request ?? '',
        allowed ? '200' : '400',
        allowed ? 'OK' : 'This key is not allowed.',
        allowed ? z85(key) : '',
        '',
      ])
    }
  }
  // It ends with an error when it is closed.
  answer().catch(() => {})
  return { close: () => asked.close() }
}

async function isAllowed(key: Buffer, curve: () => Promise<ZeromqCurve>): Promise<boolean> {
  try {
    return (await curve()).allow?.includes(z85(key)) ?? false
  } catch {
    return false
  }
}
