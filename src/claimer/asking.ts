import type { Asked } from '../lanes/reader.ts'
import type { ClaimerContext, Room } from './context.ts'
import type { InFlight } from './in-flight.ts'

/** What every read of lanes is given. */
export function askingOf(
  { consumer, inFlight, quarantine, membership }: ClaimerContext,
  asked: readonly Asked[],
  mark: boolean,
  room: Room,
) {
  return {
    consumer,
    server: membership.server,
    lanes: asked.map(({ lane }) => lane.lane),
    fences: asked.map(({ lane }) => lane.fence),
    bounds: asked.map(({ bound }) => bound),
    budgets: asked.map(({ budget }) => budget),
    reaches: asked.map(({ lane }) => inFlight.highest(lane.lane)),
    held: asked.map(({ lane, bound }) => [...inFlight.seqsOf(lane.lane)].filter((seq) => seq > bound)),
    mark,
    room: quarantine.room,
    alone: quarantine.inFlight === 0,
    bytes: room.bytes,
    limit: room.rows,
    past: asked.map(({ lane }) => pastSeqs(inFlight, lane.lane)),
  }
}

/** What is in flight of a lane beyond where it is read in order, null if nothing is. */
function pastSeqs(inFlight: InFlight, lane: number): readonly number[] | null {
  if (inFlight.countInOrder(lane) === inFlight.countOf(lane)) return null
  return [...inFlight.all(lane)].flatMap(({ past, seq }) => (past ? seq : []))
}
