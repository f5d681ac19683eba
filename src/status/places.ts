import { isOutboxId } from '../message/message.ts'
import { inboxLanes } from '../database/layout.ts'
import { messageSql } from '../database/sql/message.ts'
import { searchSql, type PlaceRow } from '../database/sql/search.ts'
import { statusSql } from '../database/sql/status.ts'
import type { Snapshot } from './snapshot.ts'

export interface Wanted {
  readonly id: string
  /** As its column has it; null for all. */
  readonly consumer: string | null
  /** Look at all that waits. */
  readonly all: boolean
}

interface Received {
  readonly consumer: string
  readonly seen_at: Date
}

export interface Places {
  readonly rows: readonly PlaceRow[]
  /** Who has received it inside the dedupe window, and when. */
  readonly received: readonly Received[]
  /** Whether all was looked at where it could be. */
  readonly complete: boolean
}

/** About so many rows of each table are looked at, shared out over the lanes. */
const lookMax = 50_000
const laneMin = 20
const laneMax = 500
/** Of the consumers that have not received it inside their dedupe window, so many inboxes are looked at. */
const othersMax = 100
const everything = 1_000_000_000

/** Finds a message wherever it is. */
export async function findPlaces(snapshot: Snapshot, { id, consumer, all }: Wanted): Promise<Places> {
  const { rows, schema } = snapshot
  const { heads } = searchSql(schema)
  const isMeant = ({ consumer: of }: { readonly consumer: string }): boolean =>
    consumer === null || consumer === of
  const received = (await rows(messageSql(schema).seen, { id })).filter(isMeant)
  const seenBy = received.map(({ consumer: of }) => of)
  const others = (await rows(statusSql(schema).consumers))
    .filter(isMeant)
    .flatMap(({ consumer: of }) => (seenBy.includes(of) ? [] : [of]))
  const inboxes = [...seenBy, ...(all ? others : others.slice(0, othersMax))]
  const ofOutbox = isMeant({ consumer: '' }) ? [''] : []
  const share = Math.floor(lookMax / (inboxLanes * Math.max(1, inboxes.length)))
  const look = all ? everything : Math.max(laneMin, Math.min(laneMax, share))

  const found = [
    ...(ofOutbox.length === 0 ? [] : await rows(heads.outbox, { id, look: all ? everything : laneMax })),
    ...(await rows(heads.inbox, { id, look, consumers: inboxes })),
    ...(await rows(heads.unhandled, { id, look, consumers: inboxes })),
    ...(await rows(heads.deferred, { id, look, consumers: [...ofOutbox, ...inboxes] })),
    ...(await rows(heads.parked, { id, look, consumers: [...ofOutbox, ...inboxes] })),
    ...(await rows(heads.dead, { id })).filter(isMeant),
    ...(await rows(heads.handled, { id })).filter(isMeant),
  ]
  const missing = [...ofOutbox, ...inboxes].filter((of) => !found.some((row) => row.consumer === of))
  const deep = all ? [] : await lookDeeper(snapshot, id, missing, received, look)
  const complete = all || (others.length <= othersMax && deep.every(({ row }) => row !== null))
  return { rows: [...found, ...deep.flatMap(({ row }) => row ?? [])], received, complete }
}

/** Of boxes that have more than was looked at: what stands there around the time at which the message came; null if it does not. */
async function lookDeeper(
  { rows, schema }: Snapshot,
  id: string,
  missing: readonly string[],
  received: readonly Received[],
  look: number,
): Promise<readonly { readonly of: string; readonly row: PlaceRow | null }[]> {
  const { more, around } = searchSql(schema)
  const found: { of: string; row: PlaceRow | null }[] = []
  for (const of of missing) {
    const isOutbox = of === ''
    const beside = { look: isOutbox ? laneMax : look, consumers: [of] }
    if (!(await rows(isOutbox ? more.outbox : more.inbox, beside))[0]!.more) continue
    // What waits for longer than the dedupe window, and so is known of no more, stands at the beginning of its lane.
    const at = isOutbox ? madeAt(id) : received.find(({ consumer }) => consumer === of)?.seen_at
    const half = Math.ceil(beside.look / 2)
    const places =
      at === undefined
        ? []
        : isOutbox
          ? await rows(around.outbox, { id, at, look: half })
          : await rows(around.inbox, { id, at, look: half, consumer: of })
    found.push(...(places.length === 0 ? [{ of, row: null }] : places.map((row) => ({ of, row }))))
  }
  return found
}

/** When an outbox made it, which its id says. */
export const madeAt = (id: string): Date | undefined =>
  isOutboxId(id) ? new Date(Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16)) : undefined
