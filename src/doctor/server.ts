import type { Asker } from '../database/limited.ts'
import { doctorSql, type ServerRow } from '../database/sql/doctor.ts'
import { crowded } from '../database/sql/sleep.ts'
import { readHorizon } from '../observe/gauges.ts'
import { ms } from '../base/times.ts'
import { fine, identifier, literal, note, orFine, wrong, type Finding } from './finding.ts'
import type { Horizon } from '../database/sql/watch.ts'

/** What the workers of a configuration would want. */
export interface Demand {
  /** What wants them: `claimer billing`. */
  readonly who: string
  readonly connections: number
}

const skewMsMax = 5000
const heldSecondsMax = 300
const heldTransactionsMax = 1_000_000
const notifyUsageMax = 0.1

/** Settings of the server that void a guarantee or slow everything down, and what it has room for. */
export async function examineServer(database: Asker, demand: readonly Demand[]): Promise<readonly Finding[]> {
  const before = Date.now()
  const [server] = await database.query(doctorSql(database.schema).server)
  const after = Date.now()
  const horizon = await readHorizon(database)
  return [
    ...durability(server!),
    ...vacuum(server!, horizon),
    ...clock(server!.now_ms, before, after),
    ...connections(server!, demand),
    ...notifications(server!.notify_usage),
  ]
}

function durability(server: ServerRow): readonly Finding[] {
  const findings: Finding[] = []
  if (server.fsync !== 'on') {
    findings.push(
      wrong('durability', 'fsync is off: a crash can lose or corrupt everything.', 'Switch it on.'),
    )
  }
  if (server.full_page_writes !== 'on') {
    findings.push(wrong('durability', 'full_page_writes is off: a crash can corrupt pages.', 'Switch it on.'))
  }
  if (server.synchronous_commit === 'off') {
    findings.push(
      wrong(
        'durability',
        'synchronous_commit is off for this user: a crash can take back messages whose publish was committed.',
        'Switch it on for the server, the database and the user. Twinbox switches it off itself where it does no harm.',
      ),
    )
  }
  return orFine(findings, 'durability', 'What is committed is on disk.')
}

export function vacuum(
  server: Pick<ServerRow, 'autovacuum' | 'track_counts' | 'sees_all' | 'me'>,
  horizon: readonly Horizon[],
): readonly Finding[] {
  const findings: Finding[] = []
  if (server.autovacuum !== 'on' || server.track_counts !== 'on') {
    findings.push(
      wrong(
        'vacuum',
        'Autovacuum does not run: the tables grow for ever.',
        'Set autovacuum and track_counts to on.',
      ),
    )
  }
  for (const { source, name, holder, application, pid, age, seconds } of horizon) {
    if (age < heldTransactionsMax && seconds < heldSecondsMax) continue
    const since = seconds > 0 ? ` for ${ms(seconds * 1000)}` : ''
    const who = [`of ${holder}`, application === '' ? '' : `(${application})`].join(' ').trim()
    findings.push(
      wrong(
        'vacuum',
        `Dead rows cannot be removed: ${source} ${name} ${who} has held them${since}, ${age} transactions.`,
        adviceFor(source, name, pid),
      ),
    )
  }
  if (!server.sees_all) {
    findings.push(
      note(
        'vacuum',
        'Whether sessions of other users hold dead rows could not be seen.',
        `As an administrator: grant pg_read_all_stats to ${identifier(server.me)}.`,
      ),
    )
  }
  return orFine(findings, 'vacuum', 'Autovacuum runs, and nobody holds dead rows.')
}

export function adviceFor(source: Horizon['source'], name: string, pid: number | null): string {
  switch (source) {
    case 'session':
      return `See what it does; end it with: select pg_terminate_backend(${pid}). idle_in_transaction_session_timeout prevents it.`
    case 'standby':
      return 'A query on the standby holds it, through hot_standby_feedback: end that query there.'
    case 'replication slot':
      return `If nobody reads it any more: select pg_drop_replication_slot(${literal(name)}).`
    case 'prepared transaction':
      return `Ask who left it; then commit prepared or rollback prepared ${literal(name)}.`
    default:
      return source satisfies never
  }
}

function clock(databaseMs: number, before: number, after: number): readonly Finding[] {
  // In between, but not when: half of the way there is as far as it could be off.
  const skew = databaseMs - (before + after) / 2
  if (Math.abs(skew) - (after - before) / 2 <= skewMsMax)
    return [fine('clock', 'It agrees with that of the database.')]
  const which = skew > 0 ? 'behind' : 'ahead of'
  return [
    wrong(
      'clock',
      `The clock here is ${ms(Math.abs(skew))} ${which} that of the database. Leases do not mind, but ids and logs are off.`,
      'Synchronise the clocks of both machines.',
    ),
  ]
}

/** The queue is one for all databases of the server, and ends at 8 GB by default. */
function notifications(usage: number): readonly Finding[] {
  if (usage < notifyUsageMax) return [fine('notify', 'Whoever listens reads what it is told.')]
  const share = `${Math.round(usage * 100)} % of the server's queue of notifications are taken: a session that listens does not read on.`
  const advice =
    'It is one that stays in a transaction: select pid, usename, xact_start from pg_stat_activity order by xact_start nulls last. End it with pg_terminate_backend. From 50 % on the log of the server names it.'
  if (usage < crowded) return [note('notify', share, advice)]
  return [
    wrong(
      'notify',
      `${share} Twinbox notifies no more, so that publishing does not fail when it is full: workers that sleep look after 1.25 s. What else notifies will fail at its commit.`,
      advice,
    ),
  ]
}

function connections(
  { connections: used, max_connections: max }: ServerRow,
  demand: readonly Demand[],
): Finding[] {
  const findings: Finding[] = []
  if (used > 0.9 * max) {
    findings.push(
      wrong(
        'connections',
        `${used} of ${max} connections are in use.`,
        'Raise max_connections, lower concurrency, or have the application go through a pooler.',
      ),
    )
  }
  const wanted = demand.reduce((sum, { connections: each }) => sum + each, 0)
  if (wanted > max) {
    const most = demand.toSorted((one, other) => other.connections - one.connections)[0]!
    findings.push(
      wrong(
        'connections',
        `One process of this configuration may want ${wanted} connections, and the server has ${max}; ${most.who} wants ${most.connections}.`,
        'Lower its concurrency, or raise max_connections.',
      ),
    )
  }
  return findings.length > 0 ? findings : [fine('connections', `${used} of ${max} are in use.`)]
}
