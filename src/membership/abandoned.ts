import type { DeathSign } from '../base/events.ts'
import { share } from '../database/layout.ts'
import type { Peer } from '../database/sql/worker.ts'

/** Workers whose end leaves work behind. One that stopped has given everything back, unless that failed. */
type Cause = NonNullable<Peer['ended_by']>

/** Whose work may be taken, and by whom: what the dead have left, as this worker sees it. */
export class Abandoned {
  /** Workers whose work belongs to whoever comes first. */
  free: readonly number[] = []
  /** Lanes, and parts of rows, that were dealt to this worker for a while; see `share`. */
  lanes: readonly number[] = []
  rows: readonly number[] = []
  /** Whether something of the dead is kept for somebody, and will be anybody's soon. */
  areReserved = false
  #causes = new Map<number, Cause>()

  /** What was taken, by the former holder that it was taken over from, and how that one was found to have failed. */
  takenOver<Taken extends { readonly previous: number | null }>(
    taken: readonly Taken[],
    self: number,
  ): { fromWorkerId: number; foundBy: DeathSign | 'evict' | 'lease'; of: Taken[] }[] {
    const former = new Set(
      taken.flatMap(({ previous }) => (previous === null || previous === self ? [] : [previous])),
    )
    return [...former].map((fromWorkerId) => {
      const cause = this.#causes.get(fromWorkerId)
      return {
        fromWorkerId,
        foundBy: cause === undefined || cause === 'stop' ? 'lease' : cause,
        of: taken.filter(({ previous }) => previous === fromWorkerId),
      }
    })
  }

  /** True if there may be something to take that there was not before. */
  update(peers: readonly Peer[], self: number | null): boolean {
    const ended = peers.filter((peer) => peer.ended_by !== null)
    const free = ended.filter(({ reserved }) => !reserved).map(({ id }) => id)
    const reserved = ended.filter((peer) => peer.reserved)
    const dealt = (assignees: (peer: Peer) => readonly (number | null)[] | null): number[] =>
      reserved.flatMap((peer) =>
        (assignees(peer) ?? []).flatMap((assignee, part) =>
          assignee !== null && assignee === self ? [share(peer.id, part)] : [],
        ),
      )
    const lanes = dealt((peer) => peer.lane_assignees)
    const rows = dealt((peer) => peer.row_assignees)
    const news =
      free.some((id) => !this.free.includes(id)) ||
      lanes.some((lane) => !this.lanes.includes(lane)) ||
      rows.some((part) => !this.rows.includes(part))
    this.free = free
    this.lanes = lanes
    this.rows = rows
    this.areReserved = reserved.length > 0
    this.#causes = new Map(ended.map(({ id, ended_by: cause }) => [id, cause!]))
    return news
  }
}
