import type { Address } from '../adapter.ts'
import type { Gap } from '../broker.ts'
import type { Outgoing } from './outgoing.ts'
import type { Settings } from './options.ts'
import type { ReceivedRecord } from './records.ts'
import type { NoCodec } from './wire/unpack.ts'

/**
 * What Twinbox needs of a client library for Kafka. Everything else is the same for all of them: what a record looks like, where a
 * key goes, which topics there are, what is committed and when, what is done about trouble. To add a client, write a file that
 * exports a `Library`, and name it in `clients.ts` and `options.ts`.
 */
export interface Library {
  /** The package, an optional peer. */
  readonly peer: string
  /**
   * Connects to nothing yet.
   *
   * @param requestTimeoutMs how long one request may take; connecting to each broker takes at most 3 s more
   * @throws BrokerError if it is not installed, or needs another Node
   */
  open(settings: Settings, requestTimeoutMs: number): Promise<Client>
}

/** Connections that can be thrown away for good. Methods throw what the library throws; `errors.ts` reads that. */
export interface Client {
  /** Connects, and lets go of the connection after the work. */
  withAdmin<T>(work: (admin: Admin) => Promise<T>): Promise<T>
  /** Connects. */
  openProducer(): Promise<Producer>
  /** Of a client that does nothing else. */
  member(reading: Reading): Member
  /** Destroys its connections and lets it open no more. Nothing of what is under way is sent after that. */
  retire(): void
}

export interface Admin {
  /** All, those of Kafka's own as well. */
  topics(): Promise<readonly string[]>
  /** Gives what the broker refused by name. */
  create(names: readonly string[], settings: Settings): Promise<readonly Refusal[]>
  remove(names: readonly string[]): Promise<void>
  brokers(): Promise<readonly Address[]>
  removeGroups(groupIds: readonly string[]): Promise<void>
  /** Where a group stands, by `placeOf`. A partition of which nothing was committed is not among them. */
  committed(groupId: string, topics: readonly string[]): Promise<ReadonlyMap<string, Committed>>
  /** The first offset that there still is of each partition, and the next one to be written. */
  ranges(topic: string): Promise<readonly Range[]>
}

export interface Refusal {
  readonly topic: string
  readonly error: unknown
}

export interface Committed {
  readonly offset: bigint
  /** What was committed beside it. */
  readonly note: string | null
}

export interface Range {
  readonly partition: number
  readonly low: bigint
  readonly high: bigint
}

export interface Producer {
  /**
   * Gives each a partition, unless it has one, and writes all to all replicas in sync, once: it makes no attempt of its own, and when it
   * throws it may have written some partitions. Not idempotent in Kafka's sense: the identity that this rests on ends with the producer,
   * which we replace after each doubt. Duplicates are the inbox's business.
   */
  write(batch: readonly Outgoing[]): Promise<void>
  close(): Promise<void>
}

/** What a member of a group reads, and whom it tells. */
export interface Reading {
  readonly groupId: string
  readonly topics: readonly string[]
  /** The byte budget of a batch, and of a fetch. */
  readonly batchBytes: number
  /** What one compressed batch may unpack to. */
  readonly unpackedBytesMax: number
  /** How long a fetch waits for something to come. */
  readonly fetchWaitMs: number
  readonly partitionBytesMax: number
  /** How soon a partition that was added is read. */
  readonly metadataMaxAgeMs: number
  /** Told which partitions the group gave it, each time. */
  readonly onJoined: (partitions: ReadonlyMap<string, readonly number[]>) => void
  /** Deals with what came of a partition. Of each partition one at a time. */
  readonly onRecords: (delivery: Delivery) => Promise<void>
  /** Told what is next, after `onRecords` and after what holds nothing for us, such as the marker that ends a transaction. */
  readonly onPosition: (topic: string, partition: number, next: bigint) => void
  /** Told which ids topics have, and the cluster, before any record of theirs that was fetched since. */
  readonly onTopicIds: (ids: ReadonlyMap<string, string>, cluster: string) => void
  /** What is committed beside an offset of this topic. */
  readonly noteOf: (topic: string) => string | null
  /** Told of a partition whose records somebody has to install a codec for. It gets none of them. */
  readonly onStuck: (stuck: Stuck) => void
  /** Told when it goes on behind what Kafka no longer has. */
  readonly onGap: (gap: Gap) => void
  /** Told of topics that the group gave it, and that it does not read. */
  readonly onForeign: (topics: readonly string[]) => void
  /** Told that there are more partitions than the group knows of: another member has to take this one's place. */
  readonly onOutdated: () => void
  /** Told why it has ended, unless by `leave`. */
  readonly onCrash: (error: unknown) => void
}

export interface Delivery {
  readonly topic: string
  readonly partition: number
  readonly records: readonly ReceivedRecord[]
  /** Whether the partition is no longer this member's, as far as it knows. */
  readonly stale: () => boolean
  /** Commits all up to this record, the last of a batch that was taken. What it throws, `onRecords` may throw. */
  readonly commit: (record: ReceivedRecord) => Promise<void>
}

/** A partition that nobody can read for now. */
export interface Stuck {
  readonly topic: string
  readonly partition: number
  readonly offset: bigint
  readonly error: NoCodec
}

/** A member of a group. It is never mended, only replaced. */
export interface Member {
  /** Connects and joins. Resolves when it has been told its partitions. */
  start(): Promise<void>
  /** Of one that has started: whether its brokers give topics ids. */
  hasTopicIds(): boolean
  /** The partition rests until the returned function is called. What was not committed comes again then. */
  pause(topic: string, partition: number): () => void
  /** Commits offset 0 of these partitions, with this note. */
  rewind(topic: string, partitions: readonly number[], note: string | null): Promise<void>
  /** Leaves the group. Lets what is under way finish. */
  leave(): Promise<void>
}

/** Names a partition. */
export const placeOf = (topic: string, partition: number): string => `${topic}/${partition}`
export const splitPlace = (place: string): [topic: string, partition: number] => {
  const end = place.lastIndexOf('/')
  return [place.slice(0, end), Number(place.slice(end + 1))]
}
