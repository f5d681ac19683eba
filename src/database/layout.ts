/**
 * How messages are laid out over lanes, for every statement and whoever prepares one. The migrations are plain SQL and spell
 * the same numbers out; test/layout.test.ts compares them.
 */
export const layout = {
  /** Lanes 0 to 63 are for keys. The outbox uses the same numbers for messages without one. */
  lanes: 64,
  /** Lanes from 64 on hold inbox messages without a key: enough to keep claimers out of each other's way. */
  stripes: 8,
  /** Of the messages of one call without a key, so many go to one lane, then to the next: a lane each would touch 64 pages. */
  inARow: 64,
  /** In how many parts the rows of a dead worker are dealt out: a row belongs to the part `seq % rowParts`. */
  rowParts: 64,
  /** A worker and one of its lanes or parts are one number, `worker * perWorker + part`: there are fewer of both. */
  perWorker: 256,
} as const

/** The lanes of an inbox, stripes included. */
export const inboxLanes = layout.lanes + layout.stripes

/** Whether a lane of an inbox is for messages with a key. */
export const isKeyed = ({ lane }: { readonly lane: number }): boolean => lane < layout.lanes

/** The lanes that are stripes. */
export const stripeLanes: readonly number[] = Array.from(
  { length: layout.stripes },
  (_, index) => layout.lanes + index,
)

/** A dead worker and one of its lanes or parts as one number, which a statement can compare with. */
export const share = (dead: number, part: number): number => dead * layout.perWorker + part

/** For a message without a key: the lane of the outbox where it goes, or where the messages of its call begin. */
export const anyLane = (): number => Math.floor(Math.random() * layout.lanes)

/** The same of an inbox, counted from the first stripe. */
export const anyStripe = (): number => Math.floor(Math.random() * layout.stripes)

/** Both in a statement, as lanes. */
export const anyLaneSql = `floor(random() * ${layout.lanes})::smallint`
export const anyStripeSql = `(${layout.lanes} + floor(random() * ${layout.stripes}))::smallint`
