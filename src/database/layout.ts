/**
 * How messages are laid out over lanes, for every statement and whoever prepares one. The migrations are plain SQL and spell
 * the same numbers out; test/layout.test.ts compares them.
 */
export const layout = {
  /** Lanes 0 to 63 are for keys. The outbox uses the same numbers for messages without one. */
  lanes: 64,
  /** Lanes from 64 on hold inbox messages without a key: enough to keep claimers out of each other's way. */
  partitions: 8,
  /** Of the messages of one call without a key, so many go to one lane, then to the next: a lane each would touch 64 pages. */
  inARow: 64,
  /** In how many parts the rows of a dead worker are dealt out: a row belongs to the part `seq % rowParts`. */
  rowParts: 64,
  /** A worker and one of its lanes or parts are one number, `worker * perWorker + part`: there are fewer of both. */
  perWorker: 256,
} as const

/** Of so many topics, the busiest, a worker's row says how much it does; of all others together, in place of a name, under this one. */
export const busyMax = 20
export const others = ''

/** The lanes of an inbox, partitions included. */
export const inboxLanes = layout.lanes + layout.partitions

/** Whether a lane of an inbox is for messages with a key. */
export const isKeyed = ({ lane }: { readonly lane: number }): boolean => lane < layout.lanes

/** The lanes that are partitions. */
export const partitionLanes: readonly number[] = Array.from(
  { length: layout.partitions },
  (_, index) => layout.lanes + index,
)

/** A dead worker and one of its lanes or parts as one number, which a statement can compare with. */
export const share = (dead: number, part: number): number => dead * layout.perWorker + part

/** For a message without a key: the lane of the outbox where it goes, or where the messages of its call begin. */
export const anyLane = (): number => Math.floor(Math.random() * layout.lanes)

/** The same of an inbox, counted from the first partition. */
export const anyPartition = (): number => Math.floor(Math.random() * layout.partitions)

/** Both in a statement, as lanes. */
export const anyLaneSql = `floor(random() * ${layout.lanes})::smallint`
export const anyPartitionSql = `(${layout.lanes} + floor(random() * ${layout.partitions}))::smallint`
