import type { ConsumerCrashEvent, EachBatchPayload, KafkaMessage } from 'kafkajs'
import { reconnectMs } from '../../base/loop.ts'
import { BrokerError } from '../../base/errors.ts'
import { batchLength } from '../consuming.ts'
import { openClient } from './client.ts'
import { toTrouble } from './errors.ts'
import type { Handover } from './handover.ts'
import { toIncoming } from './records.ts'
import type { Settings } from './options.ts'
import { watchProgress, type Progress } from './progress.ts'
import { placeOf, type Stuck } from './wire/fetch.ts'
import { atMost, within } from '../../base/waiting.ts'

/** What a consumption works for. */
export interface Feed {
  readonly groupId: string
  readonly batchSize: number
  /** A larger message makes a batch alone. */
  readonly batchBytes: number
  readonly handover: Handover
  readonly report: (trouble: BrokerError) => void
}

/** One kafkajs consumer from joining the group to its end. It is never mended, only replaced. */
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

/** Resolves when the group has given us our partitions. @throws BrokerError, also when the signal aborts before. */
export async function openConsumption(
  settings: Settings,
  topics: readonly string[],
  feed: Feed,
  signal: AbortSignal,
): Promise<Consumption> {
  const { batchBytes } = feed
  const client = await openClient(settings, settings.sessionTimeoutMs, {
    unpackedBytesMax: unpackedBatches * batchBytes,
    onStuck,
  })
  const consumer = client.kafka.consumer({
    groupId: feed.groupId,
    sessionTimeout: settings.sessionTimeoutMs,
    rebalanceTimeout: 3 * settings.sessionTimeoutMs,
    // Also how soon a member learns that the group is rebalancing, and until then the others wait.
    heartbeatInterval: Math.ceil(settings.sessionTimeoutMs / 10),
    maxWaitTimeInMs: Math.min(fetchWaitMs, settings.sessionTimeoutMs / 5),
    maxBytes: batchBytes,
    maxBytesPerPartition: Math.min(partitionBytesMax, batchBytes),
    metadataMaxAge: Math.min(metadataMaxAgeMs, settings.topicRefreshMs),
    allowAutoTopicCreation: false,
    // Whether kafkajs restarts depends on what its errors wrap; sometimes it stays down without a word.
    retry: { retries: 5, initialRetryTime: 100, maxRetryTime: 1000, restartOnFailure: async () => false },
  })
  const end = new AbortController()
  const releasePauses = new Set<() => void>()
  const failures = new Map<string, number>()
  const told = new Map<string, number>()
  const progress = watchProgress(consumer, (partition) => failures.has(partition))

  consumer.on(consumer.events.CRASH, ({ payload }: ConsumerCrashEvent) =>
    end.abort(toTrouble('The Kafka consumer has crashed', payload.error)),
  )
  consumer.on(consumer.events.RECEIVED_UNSUBSCRIBED_TOPICS, ({ payload }) =>
    feed.report(
      new BrokerError(
        'config',
        `Group "${feed.groupId}" has receivers with other topics: nobody reads ${payload.topicsNotSubscribed.join(', ')}.`,
      ),
    ),
  )

  /** What kafkajs throws here, a rebalance above all, is for kafkajs to deal with. The handover throws nothing. */
  async function eachBatch(payload: EachBatchPayload): Promise<void> {
    const { topic, partition, messages } = payload.batch
    const place = placeOf(topic, partition)
    for (let from = 0; from < messages.length;) {
      if (end.signal.aborted || !payload.isRunning() || payload.isStale()) return
      const slice = messages.slice(from, from + batchLength(messages, weightOf, feed, from))
      from += slice.length
      const incoming = slice.map((record) => toIncoming(topic, partition, record))
      const taken = await keepAlive(() => payload.heartbeat(), feed.handover.take(incoming, end.signal))
      progress.touch()
      if (!taken) return holdBack(place, payload.pause())
      failures.delete(place)
      told.delete(place)
      payload.resolveOffset(slice.at(-1)!.offset)
      await payload.commitOffsetsIfNecessary(payload.uncommittedOffsets())
      await payload.heartbeat()
    }
  }

  /** kafkajs sends heartbeats between batches only; a slow database would cost us the partition. */
  async function keepAlive<T>(heartbeat: () => Promise<void>, work: Promise<T>): Promise<T> {
    // Its failure says what the commit will say too, when there is something to do about it.
    const beat = (): void => void heartbeat().catch(() => {})
    const timer = setInterval(beat, Math.ceil(settings.sessionTimeoutMs / 10))
    try {
      return await work
    } finally {
      clearInterval(timer)
    }
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
    const partitions = [{ topic, partitions: [partition] }]
    consumer.pause(partitions)
    holdBack(place, () => consumer.resume(partitions))
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
    const leaving = consumer.disconnect().catch(() => {})
    await feed.handover.idle()
    await atMost(leaveTimeoutMs, leaving)
    client.retire()
  }

  try {
    const joined = new Promise<void>((resolve, reject) => {
      consumer.on(consumer.events.GROUP_JOIN, () => resolve())
      start().catch(reject)
    })
    await within(signal, within(end.signal, joined))
  } catch (error) {
    await close()
    throw toTrouble('Could not join the consumer group', error)
  }
  return { ended: end.signal, progress, close }

  async function start(): Promise<void> {
    await consumer.connect()
    await consumer.subscribe({ topics: [...topics], fromBeginning: true })
    await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch })
  }
}

const weightOf = ({ value }: KafkaMessage): number => value?.length ?? 0
