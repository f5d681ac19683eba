import { BrokerError } from '../../base/errors.ts'
import { reconnectMs } from '../../base/loop.ts'
import { atMost, pause, within } from '../../base/waiting.ts'
import type { Gap } from '../broker.ts'
import { batchLength } from '../consuming.ts'
import { placeOf, type Client, type Committed, type Delivery, type Stuck } from './client.ts'
import { openClient } from './clients.ts'
import { toTrouble, typeOf } from './errors.ts'
import type { Handover } from './handover.ts'
import type { Settings } from './options.ts'
import { watchProgress, type Progress } from './progress.ts'
import { toIncoming, type ReceivedRecord } from './records.ts'

/** What a consumption works for. */
export interface Feed {
  readonly groupId: string
  readonly batchSize: number
  /** A larger message makes a batch alone. */
  readonly batchBytes: number
  readonly handover: Handover
  readonly report: (trouble: BrokerError) => void
  readonly reportGap: (gap: Gap) => void
  /** By topic, the id that it had last. A consumer may end because a topic was deleted, and the next one has to notice. */
  readonly topicIds: Map<string, string>
}

/** One member of a group from joining it to its end. It is never mended, only replaced. */
export interface Consumption {
  /** Aborts when nothing more comes. The reason is a BrokerError, or null if `close` was called. */
  readonly ended: AbortSignal
  readonly progress: Progress
  /** Lets the batch in flight finish, commits it and leaves the group; a broker that does not answer is left anyway. */
  close(): Promise<void>
}

/** A fetch waits so long for something to come. It bounds how late a stop, or the end of a pause, is noticed. */
const fetchWaitMs = 500
const leaveTimeoutMs = 3000
/** How soon a partition that was added is read: the group asks for the topics' partitions as often as this. */
const metadataMaxAgeMs = 5000
/** What one partition may send at once, so that several of them share a fetch. */
const partitionBytesMax = 1024 * 1024
/** A batch that is packed better than this is refused. */
const unpackedBatches = 8
/** A partition that stands is spoken of again after so long. */
const tellAgainMs = 60_000
const backoffMsMin = 100
const backoffMsMax = 5000
/** A broker that has just become the group's coordinator does not know yet. A client library that joins waits for it too. */
const notYet = /^(NOT_COORDINATOR|(GROUP_)?COORDINATOR_NOT_AVAILABLE|(GROUP|COORDINATOR)_LOAD_IN_PROGRESS)/
const looksMax = 40
const lookAgainMs = 250

/** Resolves when the group has given us our partitions. @throws BrokerError, also when the signal aborts before. */
export async function openConsumption(
  settings: Settings,
  topics: readonly string[],
  feed: Feed,
  signal: AbortSignal,
): Promise<Consumption> {
  const { batchBytes, groupId } = feed
  const end = new AbortController()
  const releasePauses = new Set<() => void>()
  const failures = new Map<string, number>()
  const told = new Map<string, number>()
  const topicIds = new Map<string, string>()
  const remade = new Set<string>()
  const progress = watchProgress((place) => failures.has(place))
  const client = await openClient(settings, settings.sessionTimeoutMs)
  let cluster = ''
  let joins = 0
  let left: ReadonlyMap<string, Committed> = new Map()
  const member = client.member({
    ...{ groupId, topics, batchBytes, onRecords, onTopicIds, onStuck, onJoined },
    unpackedBytesMax: unpackedBatches * batchBytes,
    fetchWaitMs: Math.min(fetchWaitMs, settings.sessionTimeoutMs / 5),
    partitionBytesMax: Math.min(partitionBytesMax, batchBytes),
    metadataMaxAgeMs: Math.min(metadataMaxAgeMs, settings.topicRefreshMs),
    onPosition: progress.moved,
    // Not by the id that it has by now: what is committed was read of the topic that there was.
    noteOf: (topic) => noteOf(cluster, topicIds.get(topic)),
    onGap: feed.reportGap,
    onForeign: (names) =>
      feed.report(
        new BrokerError(
          'config',
          `Group "${groupId}" has receivers with other topics: nobody reads ${names.join(', ')}.`,
        ),
      ),
    onOutdated: () => end.abort(null),
    onCrash: (error) => end.abort(toTrouble('The Kafka consumer has crashed', error)),
  })

  /** The handover throws nothing. */
  async function onRecords({ topic, partition, records, stale, commit }: Delivery): Promise<void> {
    const place = placeOf(topic, partition)
    const topicId = topicIds.get(topic)
    // Without it, a record would have another identity the next time.
    if (topicId === undefined && member.hasTopicIds()) return holdBack(place, member.pause(topic, partition))
    for (let from = 0; from < records.length;) {
      if (end.signal.aborted || stale()) return
      const slice = records.slice(from, from + batchLength(records, weightOf, feed, from))
      from += slice.length
      const incoming = slice.map((record) => toIncoming(topic, partition, record, topicId))
      const taken = await feed.handover.take(incoming, end.signal)
      progress.touch()
      if (!taken) return holdBack(place, member.pause(topic, partition))
      // The offset is one of the old topic. In the new one, it would step over what nobody has read.
      if (remade.has(topic)) return
      failures.delete(place)
      told.delete(place)
      await commit(slice.at(-1)!)
    }
  }

  function onJoined(partitions: ReadonlyMap<string, readonly number[]>): void {
    // Who has had them since has looked as well.
    if (++joins > 1) left = new Map()
    progress.joined(partitions)
  }

  function onTopicIds(ids: ReadonlyMap<string, string>, inCluster: string): void {
    cluster = inCluster
    for (const [topic, id] of ids) {
      const remadeNow = (feed.topicIds.get(topic) ?? id) !== id
      feed.topicIds.set(topic, id)
      if (remade.has(topic) && !remadeNow) continue
      const assigned = progress.assigned().get(topic) ?? []
      const isLeft = (partition: number): boolean =>
        isOfAnotherTopic(left.get(placeOf(topic, partition))?.note, cluster, id)
      const outdated = remadeNow ? assigned : assigned.filter(isLeft)
      if (remadeNow || outdated.length > 0) {
        remade.add(topic)
        void beginAnew(topic, outdated, noteOf(cluster, id))
      } else topicIds.set(topic, id)
    }
  }

  /**
   * Kafka forgets where a group stands in a topic that is deleted. What was being committed meanwhile counts for the new topic all
   * the same, and would step over its first records. Those that were read already are known when they come again.
   */
  async function beginAnew(topic: string, partitions: readonly number[], note: string | null): Promise<void> {
    await atMost(
      leaveTimeoutMs,
      member.rewind(topic, partitions, note).catch(() => {}),
    )
    const text = `Topic "${topic}" was deleted and made again. It is read from its beginning.`
    end.abort(new BrokerError('reconnect', text))
  }

  /** Its next batch comes when somebody has installed a codec; we look now and then. */
  function onStuck({ topic, partition, offset, error }: Stuck): void {
    if (end.signal.aborted) return
    const place = placeOf(topic, partition)
    if (performance.now() - (told.get(place) ?? -Infinity) > tellAgainMs) {
      told.set(place, performance.now())
      const text = `Partition ${partition} of topic "${topic}" waits at offset ${offset}, the others go on: ${error.message}`
      feed.report(new BrokerError('config', text, { cause: error }))
    }
    progress.touch()
    holdBack(place, member.pause(topic, partition))
  }

  /** The partition rests, the others go on. Its position is where it was, so the batch comes again. */
  function holdBack(partition: string, resume: () => void): void {
    const count = (failures.get(partition) ?? 0) + 1
    failures.set(partition, count)
    const timer = setTimeout(
      () => {
        releasePauses.delete(release)
        resume()
      },
      reconnectMs(count, backoffMsMin, backoffMsMax),
    )
    const release = (): void => clearTimeout(timer)
    releasePauses.add(release)
  }

  let closing: Promise<void> | null = null
  const close = (): Promise<void> => (closing ??= closeOnce())
  async function closeOnce(): Promise<void> {
    end.abort(null)
    for (const release of releasePauses) release()
    const leaving = member.leave().catch(() => {})
    await feed.handover.idle()
    await atMost(leaveTimeoutMs, leaving)
    client.retire()
  }

  try {
    left = await committedBefore(client, groupId, topics, signal)
    await within(signal, within(end.signal, member.start()))
  } catch (error) {
    await close()
    throw toTrouble('Could not join the consumer group', error)
  }
  return { ended: end.signal, progress, close }
}

/** Where the group stood before this member joined it. */
async function committedBefore(
  client: Client,
  groupId: string,
  topics: readonly string[],
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Committed>> {
  for (let looks = 1; ; looks++) {
    try {
      return await within(
        signal,
        client.withAdmin((admin) => admin.committed(groupId, topics)),
      )
    } catch (error) {
      if (looks === looksMax || signal.aborted || !notYet.test(typeOf(error) ?? '')) throw error
      await pause(lookAgainMs, signal)
    }
  }
}

/** Beside an offset, of which topic it is one: whoever is killed while a topic is deleted takes nothing back. */
const noteOf = (cluster: string, topicId = ''): string | null =>
  topicId === '' ? null : `${cluster} ${topicId}`
/** One of another cluster was carried over by whoever mirrors that, and any other text is somebody else's: both offsets are believed. */
function isOfAnotherTopic(note: string | null | undefined, cluster: string, topicId: string): boolean {
  const [itsCluster, itsTopic, ...more] = note?.split(' ') ?? []
  const isNote = Boolean(itsTopic) && more.length === 0
  return isNote && topicId !== '' && itsCluster === cluster && itsTopic !== topicId
}

const weightOf = ({ value }: ReceivedRecord): number => value?.length ?? 0
