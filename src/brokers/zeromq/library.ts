import type * as Zeromq from 'zeromq'
import { loadPeer } from '../peer.ts'

/** @throws BrokerError if it is not installed */
export const loadZeromq = (load = (): Promise<typeof Zeromq> => import('zeromq')): Promise<typeof Zeromq> =>
  loadPeer('zeromq', load)
