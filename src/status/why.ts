import { layout } from '../database/layout.ts'
import type { FoundRow } from '../database/sql/search.ts'
import { takes } from '../message/message.ts'
import { nothing, type Evidence } from './explanation.ts'
import type { Facts } from './facts.ts'

/** Why a message is where it was found. The one place that judges it. */
export async function judge(row: FoundRow, facts: Facts): Promise<Evidence> {
  const shared: Evidence = {
    ...nothing,
    ...{
      state: row.state,
      consumer: row.consumer === '' ? null : row.consumer,
      topic: row.topic,
      key: row.key,
    },
    ...{
      lane: row.lane,
      since: row.since,
      until: row.due_at,
      expiresAt: row.expires_at,
      attempt: row.attempt,
    },
    error: row.error?.error ?? row.reason,
  }
  switch (row.state) {
    case 'dead':
      return judgeDead(row, shared, facts)
    case 'handled': {
      const worker = row.holder === null ? null : await facts.worker(row.holder, row)
      const intervention = await facts.intervention(row.consumer)
      return { ...shared, why: 'handled', worker, intervention }
    }
    case 'deferred':
      return judgeDeferred(row, shared, facts)
    case 'parked':
    case 'unhandled':
    case 'outbox':
    case 'inbox':
      return judgeWaiting(row, shared, facts)
    default:
      return row.state satisfies never
  }
}

async function judgeDead(row: FoundRow, shared: Evidence, facts: Facts): Promise<Evidence> {
  const held = await facts.keyOf(row)
  const intervention = await facts.intervention(row.consumer)
  const blocks = held !== null && held.letter === row.place
  return {
    ...{ ...shared, why: 'dead', letter: row.place, error: row.reason, intervention },
    behind: blocks ? { id: facts.id, letter: row.place, inFlight: false, attempt: null, error: null } : null,
  }
}

async function judgeDeferred(row: FoundRow, shared: Evidence, facts: Facts): Promise<Evidence> {
  const workers = await livingOf(row, facts)
  const paused = await facts.pausedOf(row)
  const unwanted = await facts.isUnwanted(row)
  const fresh = row.attempt === 0 && row.error === null
  const why = fresh && paused !== null ? 'put_off' : fresh && row.consumer === '' ? 'delayed' : 'retry'
  return { ...shared, why, workers: workers.length, paused, unwanted }
}

const livingOf = async (row: FoundRow, facts: Facts) =>
  (await facts.workersOf(row.consumer)).filter(({ alive }) => alive)

async function judgeWaiting(row: FoundRow, shared: Evidence, facts: Facts): Promise<Evidence> {
  const { consumer, topic, state } = row
  const living = await livingOf(row, facts)
  const lane = await facts.laneOf(row)
  const inPartition = consumer !== '' && row.lane! >= layout.lanes
  const holding = inPartition ? row.holder : lane?.runs === true ? lane.holder : null
  const worker =
    holding === null
      ? null
      : await facts.worker(holding, row, inPartition ? { lease_until: row.lease_until! } : lane)
  const known = { ...shared, worker, workers: living.length, unwanted: await facts.isUnwanted(row) }

  const held = await facts.keyOf(row)
  if (held !== null && state === 'parked' && held.place === row.place && held.letter === null)
    return { ...known, why: 'retry', until: held.until, error: row.error?.error ?? held.reason }
  // Those that have been let go on of a key are ahead of the others, and back in their lane.
  if (held !== null && (state === 'parked' || row.place > held.released_to)) {
    const { id, letter, attempt, error, reason } = held
    const behind = { id, letter, inFlight: false, attempt, error: error?.error ?? reason }
    return { ...known, why: 'behind_parked', until: held.until, error: row.error?.error ?? null, behind }
  }

  const paused = await facts.pausedOf(row)
  const inFlight = state === 'inbox' && row.holder !== null && worker?.state === 'alive'
  if (paused !== null && (inFlight || living.length > 0)) return { ...known, why: 'paused', paused }
  const ahead = state === 'outbox' || state === 'inbox' ? await facts.aheadOf(row) : null
  const aheadOf = ahead === null ? null : { lane: ahead.ahead, key: ahead.of_key, more: ahead.more }
  const seen: Evidence = { ...known, ahead: aheadOf }
  const earlier = ahead !== null && row.key !== null && ahead.of_key > 0
  if (inFlight && !earlier) return { ...seen, why: 'in_flight', attempt: row.attempt + (inPartition ? 0 : 1) }
  if (living.length === 0 && (worker === null || worker.state === 'stopped')) {
    const last = (await facts.workersOf(consumer)).at(0)
    const ended = last === undefined ? null : await facts.worker(last.id, row)
    return { ...seen, why: 'no_worker', worker: ended }
  }
  const takers = living.filter(({ topics }) => topics === null || takes(topics, topic))
  if (consumer !== '' && living.length > 0 && takers.length === 0)
    return { ...seen, why: 'no_handler', worker: null }
  if (lane !== null && !inPartition && ahead !== null && row.place <= lane.watermark)
    return { ...seen, why: 'below' }
  if (worker?.state === 'alive' && worker.brokerDownSince !== null) return { ...seen, why: 'broker_down' }
  if (earlier) {
    const behind = {
      id: ahead.first,
      letter: null,
      inFlight: ahead.first_in_flight,
      attempt: null,
      error: null,
    }
    return { ...seen, why: 'behind', behind }
  }
  if (worker !== null && worker.state !== 'alive') return { ...seen, why: 'dead_holder' }
  if (state === 'unhandled') return { ...seen, why: 'free', worker: await facts.worker(takers[0]!.id, row) }
  return { ...seen, why: worker === null && !inPartition ? 'free' : 'queued' }
}
