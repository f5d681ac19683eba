import { BrokerError } from '../../../base/errors.ts'
import { onAbort, pause as rest, untilAborted } from '../../../base/waiting.ts'
import { placeOf, type Reading } from '../client.ts'
import type { ReceivedRecord } from '../records.ts'
import { digest } from '../wire/batches.ts'
import type { Allowance } from '../wire/allowance.ts'
import { readStretches } from '../wire/reading.ts'
import { fetchApi, fetchRecords, fetchVersion, type Fetched } from './fetch.ts'
import type { Pool } from './pool.ts'

/** Reads the partitions of one generation of a group, from each broker that leads some of them at a time. */
export interface Reader {
  /** @throws BrokerError if the brokers are too old */
  check(): Promise<void>
  /** Until the generation is over. What is in hand is finished. @throws what the library throws, and BrokerError */
  read(partitions: ReadonlyMap<string, readonly number[]>, owner: Owner): Promise<void>
  pause: (topic: string, partition: number) => () => void
  close(): void
}

/** On whose behalf it reads. */
export interface Owner {
  readonly over: AbortSignal
  readonly committed: () => Promise<ReadonlyMap<string, readonly (bigint | undefined)[]>>
  readonly commit: (topic: string, partition: number, next: bigint) => Promise<void>
}

interface Place {
  readonly topic: string
  readonly partition: number
  position: bigint
  resting: boolean
  /** The position whose batch reached beyond the end that its response spoke of. */
  doubted: bigint | null
}

const readAgainMs = 100
const looksMax = 20
const offsetOutOfRange = 1
/** Somebody else leads the partition now, or nobody yet, or its topic is another one: 3 to 9 and 74, 75, 78, 100 and 103 by Kafka's numbers. */
const lookAgain = new Set([3, 5, 6, 9, 56, 74, 75, 78, 100, 103])

export function createReader(pool: Pool, reading: Reading): Reader {
  const { library } = pool
  // A fetch keeps its connection busy while it waits, and heartbeats may not wait behind it.
  const client = pool.make((options) => new library.Admin(options))
  let metadata: Awaited<ReturnType<typeof look>>
  let places = new Map<string, Place>()
  let wake = (): void => {}
  let count: number | null = null

  async function look() {
    const found = await client.metadata({ topics: [...reading.topics], forceUpdate: true })
    const now = [...found.topics.values()].reduce((sum, { partitionsCount }) => sum + partitionsCount, 0)
    if (count !== null && now > count) reading.onOutdated()
    count = now
    metadata = found
    const ids = [...found.topics].map(
      ([topic, { id }]) => [topic, toBytes(id).toString('base64url')] as const,
    )
    reading.onTopicIds(new Map(ids), found.id)
    return found
  }

  /** While leaders are being elected, nobody can say where a partition begins. */
  async function beginningOf(asked: readonly Pick<Place, 'topic' | 'partition'>[], signal: AbortSignal) {
    for (let looks = 1; ; looks++) {
      try {
        const topics = asked.map(({ topic: name, partition: partitionIndex }) => ({
          ...{ name, partitions: [{ partitionIndex, timestamp: -2n }] },
        }))
        const found = topics.length === 0 ? [] : await client.listOffsets({ topics })
        const offsets = found.flatMap(({ name, partitions }) =>
          partitions.map(({ partitionIndex, offset }) => [placeOf(name, partitionIndex), offset] as const),
        )
        return new Map(offsets)
      } catch (error) {
        const stale = library.findErrorBy(error as Error, 'hasStaleMetadata', true) !== null
        if (!stale || looks === looksMax || signal.aborted) throw error
        await rest(readAgainMs, signal)
        await look()
      }
    }
  }

  async function placesOf(
    partitions: ReadonlyMap<string, readonly number[]>,
    owner: Owner,
  ): Promise<Map<string, Place>> {
    const committed = await owner.committed()
    const found = [...partitions].flatMap(([topic, numbers]) =>
      numbers.map((partition): Place => {
        const position = committed.get(topic)?.[partition] ?? -1n
        return { topic, partition, position, resting: false, doubted: null }
      }),
    )
    const fresh = found.filter(({ position }) => position < 0n)
    const beginnings = await beginningOf(fresh, owner.over)
    for (const place of fresh) place.position = beginnings.get(placeOf(place.topic, place.partition)) ?? 0n
    return new Map(found.map((place) => [placeOf(place.topic, place.partition), place]))
  }

  async function read(partitions: ReadonlyMap<string, readonly number[]>, owner: Owner): Promise<void> {
    if (owner.over.aborted) return
    const stop = new AbortController()
    const stopListening = onAbort(owner.over, () => stop.abort(null))
    const loops = new Map<number, Promise<void>>()
    const leaderOf = ({ topic, partition }: Place): number | undefined =>
      metadata.topics.get(topic)?.partitions[partition]?.leader

    async function readFrom(node: number): Promise<void> {
      try {
        for (;;) {
          const wanted = shuffled(
            [...places.values()].filter((place) => !place.resting && leaderOf(place) === node),
          )
          // In the same step, or whoever wakes it up in between would believe that it runs.
          if (stop.signal.aborted || wanted.length === 0) return void loops.delete(node)
          await fetchFrom(node, wanted)
        }
      } catch (error) {
        // A connection that was closed under its feet, or a commit for a generation that is over.
        if (!owner.over.aborted) stop.abort(error)
      }
    }

    async function fetchFrom(node: number, wanted: readonly Place[]): Promise<void> {
      const connection = await client.connections.get(metadata.brokers.get(node)!)
      const byId = new Map<string, Place>()
      const wants = wanted.map((place) => {
        const topicId = toBytes(metadata.topics.get(place.topic)!.id).toString('hex')
        byId.set(placeOf(topicId, place.partition), place)
        return { topicId, partition: place.partition, position: place.position }
      })
      const { fetchWaitMs: waitMs, batchBytes: maxBytes, partitionBytesMax, unpackedBytesMax } = reading
      const fetched = await fetchRecords(library, connection, wants, { waitMs, maxBytes, partitionBytesMax })
      const allowance = { codecs: {}, unpackedBytesMax, objectBytes: unpackedBytesMax, used: false }
      for (const part of fetched) {
        if (stop.signal.aborted) return
        const place = byId.get(placeOf(part.topicId, part.partition))
        if (place !== undefined && !place.resting) await take(place, part, allowance)
      }
    }

    async function take(place: Place, part: Fetched, allowance: Allowance): Promise<void> {
      const { topic, partition, position: from } = place
      if (part.error === offsetOutOfRange) return beginAnew(place)
      if (lookAgain.has(part.error)) {
        await rest(readAgainMs, stop.signal)
        return void (await look())
      }
      if (part.error !== 0) throw new library.ProtocolError(part.error)
      const range = { from, end: part.end, doubted: place.doubted === from }
      const { stretches, stuck, doubtful } = await digest(part.records, range, allowance)
      place.doubted = doubtful ? from : null
      if (stuck !== null) reading.onStuck({ topic, partition, offset: from, error: stuck })
      if (stretches.length === 0) return
      const { records, next } = readStretches(stretches, from, part.aborted)
      const commit = async ({ offset }: ReceivedRecord): Promise<void> => {
        place.position = BigInt(offset) + 1n
        await owner.commit(topic, partition, place.position)
      }
      if (records.length > 0)
        await reading.onRecords({ topic, partition, records, stale: () => stop.signal.aborted, commit })
      const last = records.at(-1)
      if (last === undefined || place.position > BigInt(last.offset)) {
        // Behind the last record there may be such as nobody sees, which would look like records that wait.
        if (next > place.position) await owner.commit(topic, partition, next)
        place.position = next
      }
      reading.onPosition(topic, partition, place.position)
    }

    /** Kafka has deleted what is next; or its log has lost its end, and whoever begins anew at a lower offset has missed nothing. */
    async function beginAnew(place: Place): Promise<void> {
      const { topic, partition, position } = place
      const beginning = (await beginningOf([place], stop.signal)).get(placeOf(topic, partition)) ?? 0n
      if (beginning > position)
        reading.onGap({ topic, partition, from: Number(position), to: Number(beginning) })
      place.position = beginning
    }

    try {
      await look()
      places = await placesOf(partitions, owner)
      wake = () => {
        if (stop.signal.aborted) return
        for (const place of places.values()) {
          const node = leaderOf(place) ?? -1
          if (!place.resting && metadata.brokers.has(node) && !loops.has(node))
            loops.set(node, readFrom(node))
        }
      }
      while (!stop.signal.aborted) {
        wake()
        await (places.size === 0 ? untilAborted(stop.signal) : rest(reading.metadataMaxAgeMs, stop.signal))
        if (!stop.signal.aborted) await look()
      }
    } catch (error) {
      if (!owner.over.aborted) throw error
    } finally {
      stop.abort(null)
      wake = () => {}
      await Promise.all(loops.values())
      stopListening()
    }
    if (stop.signal.reason !== null) throw stop.signal.reason
  }

  return {
    read,
    check: async () => {
      const fetch = (await client.listApis()).find(({ apiKey }) => apiKey === fetchApi)
      if ((fetch?.maxVersion ?? 0) >= fetchVersion) return
      const text =
        "client: 'platformatic' of kafka() reads from Kafka 3.1 or later, and this one is older: use client: 'kafkajs'."
      throw new BrokerError('config', text)
    },
    pause: (topic, partition) => {
      const place = places.get(placeOf(topic, partition))
      if (place === undefined) return () => {}
      place.resting = true
      return () => {
        place.resting = false
        wake()
      }
    },
    close: () => pool.discard(client),
  }
}

const toBytes = (uuid: string): Buffer => Buffer.from(uuid.replaceAll('-', ''), 'hex')

/** A broker fills its answer in the order of the question, so none should always be the last. */
function shuffled(places: readonly Place[]): Place[] {
  return places
    .map((place) => ({ place, turn: Math.random() }))
    .toSorted((one, other) => one.turn - other.turn)
    .map(({ place }) => place)
}
