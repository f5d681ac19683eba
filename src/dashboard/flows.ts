import type { Waiting } from '../database/sql/dashboard.ts'

/** What waited at one time, by the clock that this process measures with. */
export interface Look {
  readonly waiting: Waiting
  readonly at: number
}

/** A topic of a box: how many of it wait, for how long, and how many come and go, a second. Null is what cannot be told. */
export interface TopicFlow {
  readonly topic: string
  readonly depth: number | null
  readonly lagMs: number | null
  readonly inRate: number | null
  readonly outRate: number | null
}

/** So many of the deepest are told of, and as many of each of the others. */
const toldMax = 20

/**
 * Of a box the deepest topics, then those of which most goes and most comes, with how much that is.
 *
 * What goes is what workers say at their heartbeats: how many messages they have sent or handled in ten seconds, of their busiest topics.
 * What comes nobody counts by topic, and no table shows it of a box that keeps pace: it is what goes, and what the depth has grown by
 * since a look of ten seconds ago; what is parked or has died counts as never come. Where so much waits that a depth is an estimate, its
 * growth is noise; but then all that comes still waits at the end of its lane, and the newest of each lane tell how much it is. So what
 * is read has a bound, however much waits and of however many topics.
 */
export function flowsOf(consumer: string, looks: readonly Look[]): readonly TopicFlow[] {
  const latest = looks.at(-1)!
  const [before, earlier] = [looks.at(-2), earlierThan(latest, looks)]
  const now = picture(latest.waiting, consumer)
  const then = earlier === null ? null : picture(earlier.waiting, consumer)
  const seconds = earlier === null ? 0 : (latest.at - earlier.at) / 1000
  const grown = (topic: string): number | null => {
    if (then === null || now.estimated || then.estimated || seconds <= 0) return null
    const [is, was] = [now.depthOf(topic), then.depthOf(topic)]
    return is === null || was === null ? null : (is - was) / seconds
  }
  const came = (topic: string): number | null =>
    before === undefined ? null : now.cameOf(topic) / ((latest.at - before.at) / 1000)
  // A flood behind a backlog is among what comes long before it is among the deepest.
  const chosen = [now.topics, now.flows, now.came].flatMap((rows) =>
    rows.slice(0, toldMax).map(({ topic }) => topic),
  )
  return [...new Set(chosen)].map((topic) => {
    const outRate = now.outOf(topic)
    const growth = grown(topic)
    return {
      ...{ topic, outRate, depth: now.depthOf(topic) },
      lagMs: now.topics.find((row) => row.topic === topic)?.lag_ms ?? null,
      inRate: now.estimated
        ? came(topic)
        : outRate === null || growth === null
          ? null
          : Math.max(0, outRate + growth),
    }
  })
}

/** The look to compare with: the latest that is ten seconds old, or the oldest of them. One from before a pause of the viewers says nothing of now. */
function earlierThan(latest: Look, looks: readonly Look[]): Look | null {
  const before = looks.filter(({ at }) => at < latest.at && at > latest.at - 3 * comparedMs)
  return before.findLast(({ at }) => at <= latest.at - comparedMs) ?? before[0] ?? null
}

/** As long as workers look back. */
export const comparedMs = 10_000

function picture(waiting: Waiting, consumer: string) {
  const of = <Row extends { readonly consumer: string }>(rows: readonly Row[]): Row[] =>
    rows.filter((row) => row.consumer === consumer)
  const [topics, flows, came] = [of(waiting.topics), of(waiting.flows), of(waiting.came)]
  const estimated = of(waiting.depths)[0]?.estimated ?? false
  // A topic that is not listed has nothing waiting, or is none of the deepest.
  const isListed = !estimated && (topics[0]?.topics ?? 0) <= topics.length
  const complete = of(waiting.told)[0]?.complete ?? true
  return {
    ...{ topics, flows, came, estimated },
    cameOf: (topic: string): number => came.find((row) => row.topic === topic)?.count ?? 0,
    depthOf: (topic: string): number | null =>
      topics.find((row) => row.topic === topic)?.depth ?? (isListed ? 0 : null),
    outOf: (topic: string): number | null =>
      flows.find((row) => row.topic === topic)?.rate ?? (complete ? 0 : null),
  }
}
