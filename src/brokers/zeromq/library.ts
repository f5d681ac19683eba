import type * as Zeromq from 'zeromq'
import { missingPeer } from '../peer.ts'

/**
 * @param load in place of the library
 * @throws BrokerError if it is not installed
 */
export async function loadZeromq(load?: () => Promise<typeof Zeromq>): Promise<typeof Zeromq> {
  try {
    return load === undefined ? await import('zeromq') : await load()
  } catch (cause) {
    throw missingPeer('zeromq', cause)
  }
}
