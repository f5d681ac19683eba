import { BrokerError } from '../base/errors.ts'
import { within } from '../base/waiting.ts'

/** A server that takes longer to answer is away as well, and not worth waiting for here. */
const probeMs = 5000

/**
 * The `probe` of a broker, of something that connects once and lets go: rejects for what it says is `config`. Asked once,
 * however many workers share the broker; and again after a refusal, which somebody may have mended.
 */
export function probing(connect: (signal: AbortSignal) => Promise<unknown>): () => Promise<void> {
  let probed: Promise<void> | null = null
  const probe = async (): Promise<void> => {
    const signal = AbortSignal.timeout(probeMs)
    try {
      await within(signal, connect(signal))
    } catch (error) {
      if (!(error instanceof BrokerError) || error.kind !== 'config') return
      probed = null
      throw error
    }
  }
  return () => (probed ??= probe())
}
