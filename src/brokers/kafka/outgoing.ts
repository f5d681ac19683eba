import { BrokerError } from '../../base/errors.ts'
import type { OutgoingMessage } from '../../message/message.ts'
import type { SendOutcome } from '../broker.ts'
import { sizeOf, toRecord, type OutgoingRecord } from './records.ts'
import type { Settings } from './options.ts'

/** A message on its way. */
export interface Outgoing {
  readonly topic: string
  /** Its `partition` is filled in by the first attempt and then stays: an attempt that is split keeps to it. */
  readonly record: OutgoingRecord
  readonly bytes: number
  /** True if an attempt ended without saying whether the broker took it. */
  doubtful: boolean
  outcome: SendOutcome | null
}

export function toOutgoing(message: OutgoingMessage, settings: Settings): Outgoing {
  const record = toRecord(message, settings.source)
  const outgoing = { record, bytes: sizeOf(record), doubtful: false, outcome: null }
  let topic: string
  try {
    topic = settings.topic(message)
  } catch (cause) {
    const error = new BrokerError('config', 'The option topic threw for this message.', { cause })
    return { ...outgoing, topic: '', outcome: { status: 'rejected', error } }
  }
  if (typeof topic !== 'string' || topic === '') {
    const error = new BrokerError('config', 'The option topic gave no name for this message.')
    return { ...outgoing, topic: '', outcome: { status: 'rejected', error } }
  }
  return { ...outgoing, topic }
}

/** What to say of a message that has no outcome when sending stopped for this reason. */
export function unsettled(outgoing: Outgoing, reason: BrokerError): SendOutcome {
  return { status: outgoing.doubtful ? 'unknown' : 'failed', error: reason }
}

/** In order, each with up to so many bytes; a larger message is alone. */
export function splitBySize(batch: readonly Outgoing[], maxBytes: number): Outgoing[][] {
  const chunks: Outgoing[][] = []
  let bytes = Infinity
  for (const outgoing of batch) {
    bytes += outgoing.bytes
    if (bytes > maxBytes) {
      chunks.push([])
      bytes = outgoing.bytes
    }
    chunks.at(-1)!.push(outgoing)
  }
  return chunks
}

/** Those that need not wait for topics: neither of one of them, nor behind one under its key, since of a key nothing changes places. */
export function aheadOf(batch: readonly Outgoing[], topics: ReadonlySet<string>): Outgoing[] {
  const keys = new Set<string>()
  return batch.filter(({ topic, record }) => {
    const key = record.key ?? undefined
    const waits = topics.has(topic) || (key !== undefined && keys.has(key))
    if (waits && key !== undefined) keys.add(key)
    return !waits
  })
}

/** In order within each group. */
export function groupBy(
  batch: readonly Outgoing[],
  nameOf: (outgoing: Outgoing) => string,
): ReadonlyMap<string, readonly Outgoing[]> {
  const groups = new Map<string, Outgoing[]>()
  for (const outgoing of batch) {
    const name = nameOf(outgoing)
    const group = groups.get(name)
    if (group === undefined) groups.set(name, [outgoing])
    else group.push(outgoing)
  }
  return groups
}
