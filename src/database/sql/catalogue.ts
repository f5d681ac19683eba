import { auditSql } from './audit.ts'
import { circuitSql } from './circuit.ts'
import { completionSql } from './completion.ts'
import { dashboardSql } from './dashboard.ts'
import { deadSql } from './dead.ts'
import { doctorSql } from './doctor.ts'
import { explainSql } from './explain.ts'
import { floodSql } from './flood.ts'
import { inboxSql } from './inbox.ts'
import { laneSql } from './lane.ts'
import { listingSql } from './listing.ts'
import { locksSql } from './locks.ts'
import { messageSql } from './message.ts'
import { migrationSql } from './migration.ts'
import { movingSql } from './moving.ts'
import { operateSql } from './operate.ts'
import { outboxSql } from './outbox.ts'
import { ownershipSql } from './ownership.ts'
import { parkedSql } from './parked.ts'
import { parkingSql } from './parking.ts'
import { privacySql } from './privacy.ts'
import { readingSql } from './reading.ts'
import { receiveSql } from './receive.ts'
import { refusedSql } from './refused.ts'
import { rightsSql } from './rights.ts'
import { rolesSql } from './roles.ts'
import { rowSecuritySql } from './rowsecurity.ts'
import { scheduleSql } from './schedule.ts'
import { searchSql } from './search.ts'
import { sequenceSql } from './sequence.ts'
import { sleepSql } from './sleep.ts'
import { statusSql } from './status.ts'
import { subscriptionSql } from './subscription.ts'
import { testingSql } from './testing.ts'
import { unhandledSql } from './unhandled.ts'
import { upkeepSql } from './upkeep.ts'
import { waitingSql } from './waiting.ts'
import { watchSql } from './watch.ts'
import { workerSql } from './worker.ts'
import type { Parameter } from './parameter.ts'
import { pathsOf, type Statement } from './statement.ts'

const rooms = {
  audit: auditSql,
  circuit: circuitSql,
  completion: completionSql,
  dashboard: dashboardSql,
  dead: deadSql,
  doctor: doctorSql,
  explain: explainSql,
  flood: floodSql,
  inbox: inboxSql,
  lane: laneSql,
  listing: listingSql,
  locks: locksSql,
  message: messageSql,
  migration: migrationSql,
  moving: movingSql,
  operate: operateSql,
  outbox: outboxSql,
  ownership: ownershipSql,
  parked: parkedSql,
  parking: parkingSql,
  privacy: privacySql,
  reading: readingSql,
  receive: receiveSql,
  refused: refusedSql,
  rights: rightsSql,
  roles: rolesSql,
  rowSecurity: rowSecuritySql,
  schedule: scheduleSql,
  search: searchSql,
  sequence: sequenceSql,
  sleep: sleepSql,
  status: statusSql,
  subscription: subscriptionSql,
  testing: testingSql,
  unhandled: unhandledSql,
  upkeep: upkeepSql,
  waiting: waitingSql,
  watch: watchSql,
  worker: workerSql,
}

/** Every statement of a schema by its path, such as `inbox.claim`: in the order of the files, and as they stand there. */
export const catalogue = (schema: string): ReadonlyMap<string, Statement> =>
  new Map(Object.entries(rooms).flatMap(([room, statements]) => pathsOf(room, statements(schema))))

/**
 * A statement as SQL that runs in psql: prepared and called with an example of each parameter, to be put right by whoever
 * tries it. One without parameters stands as it is.
 */
export function printed(path: string, { text, takes }: Statement): string {
  const parameters: [string, Parameter<never>][] = Object.entries(takes)
  if (parameters.length === 0) return `-- ${path}\n${text.trim()};\n`
  // What is sent as a text, says so first.
  const types = parameters.map(([, { type }]) => type.split('::')[0])
  const values = parameters.map(
    ([name, { example }], index) =>
      `  ${example}${index < parameters.length - 1 ? ',' : ''}  -- $${index + 1} ${name}`,
  )
  return `-- ${path}\nprepare "${path}" (${types.join(', ')}) as\n${text.trim()};\nexecute "${path}" (\n${values.join('\n')}\n);\ndeallocate "${path}";\n`
}
