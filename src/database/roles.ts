import { OptionError } from '../base/errors.ts'
import { checkConsumer, checkSchema, readNumbers } from '../base/options.ts'
import { openDatabase, type DatabaseInput, type DatabaseOptions } from './database.ts'
import { checkSchemaIsNewest } from './migrate.ts'
import type { Asker } from './limited.ts'
import { insistOnLocks, type LockWait } from './lockwait.ts'
import { markOf, narrowedRoles, roleNames, roleOf, type RoleName } from './sql/grants.ts'
import { rolesSql, type MembersRow } from './sql/roles.ts'

/** A role of least privilege, and who has it. */
export interface RoleStatus {
  readonly role: RoleName
  /** The consumer to whose rows it is narrowed; null if it is not. */
  readonly consumer: string | null
  /** Its name in the database: the schema's and its own, `twinbox_relay`, and the consumer's, `twinbox_claimer_billing`. */
  readonly name: string
  readonly exists: boolean
  /** Whether `applyRoles` made it; another one of its name is refused. False if there is none. */
  readonly ours: boolean
  /** Roles that are granted it. */
  readonly members: readonly string[]
}

/** What a role's name has at most: Postgres cuts off the rest, and two names would become one. */
const maxNameBytes = 63

/** Checks names of consumers of which there are to be roles. @throws OptionError */
function checkConsumers(schema: string, consumers: readonly string[]): readonly string[] {
  for (const consumer of consumers) {
    checkConsumer(consumer)
    const names = narrowedRoles.map((role) => roleOf(schema, role, consumer))
    const long = names.find((name) => Buffer.byteLength(name) > maxNameBytes)
    if (long !== undefined) {
      throw new OptionError(
        'consumers',
        `The role ${long} would have a name of ${Buffer.byteLength(long)} bytes, and Postgres takes ${maxNameBytes}: no role can be made for this consumer.`,
      )
    }
  }
  return [...new Set(consumers)]
}

/**
 * The SQL that makes the roles and gives each what it needs; with `consumers`, roles of these too. What `twinbox roles --print`
 * prints. @throws OptionError
 */
export function rolesScript(schema = 'twinbox', consumers: readonly string[] = []): string {
  checkSchema(schema)
  return rolesSql(schema).script(checkConsumers(schema, consumers))
}

export interface ApplyRolesOptions extends DatabaseOptions {
  /**
   * Of each of these, `twinbox_receiver_NAME` and `twinbox_claimer_NAME` are made, who see and write the rows of this consumer alone,
   * by policies of row-level security. Roles that an earlier call has made for others stay. @default none
   */
  readonly consumers?: readonly string[] | undefined
  /**
   * How long to go on trying while others hold locks on tables that get a policy. In milliseconds. @default 60_000
   */
  readonly waitMs?: number | undefined
  /** Told after each try in vain who was in the way. */
  readonly onWait?: ((wait: LockWait) => void) | undefined
  /** Ends it: what was begun is rolled back. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Makes the seven roles where they are missing, and gives each of them what it needs and nothing else. Repeat it after a
 * migration. In one transaction; needs the owner of the tables, and CREATEROLE. Grant the
 * roles to the users that your processes log in as.
 *
 * Roles belong to all databases of a server: a member in one is a member in all. A role of such a name that Twinbox has not made, as
 * its comment says, is refused, since nobody knows who its members are.
 *
 * The first role of a consumer switches row-level security on for the tables that have consumers. For others nothing changes: a
 * policy lets them through. For each new role of a consumer these tables are locked for a moment, as by `migrate`.
 *
 * @throws OptionError; SchemaError, `SCHEMA_BUSY` if others hold on to the tables for longer than `waitMs`; the signal's reason; or
 *   the database's error: SQLSTATE 42710 for a role or for row-level security that Twinbox has not made. Then nothing was changed
 */
export async function applyRoles(input: DatabaseInput, options: ApplyRolesOptions = {}): Promise<void> {
  const {
    consumers = [],
    waitMs: given,
    onWait = () => {},
    signal = new AbortController().signal,
    ...opening
  } = options
  const { waitMs } = readNumbers({ waitMs: given }, ['waitMs'])
  const { database, owned } = openDatabase(input, { ...opening, poolSize: 1 })
  try {
    const script = rolesScript(database.schema, consumers)
    // It begins by taking everything back: what it does not know, newer workers would lack.
    await checkSchemaIsNewest(database)
    await insistOnLocks(database, (client) => client.query(script), { waitMs, onWait, signal })
  } finally {
    if (owned) await database.close()
  }
}

/** Reads which of the roles there are, and who has them: the seven, then those of single consumers. @throws the database's error */
export async function readRoles(input: DatabaseInput, options: DatabaseOptions = {}): Promise<RoleStatus[]> {
  const { database, owned } = openDatabase(input, { ...options, poolSize: 1 })
  try {
    const roles = await findRoles(database)
    return roles.map(({ login: _login, applied: _applied, ...role }) => role)
  } finally {
    if (owned) await database.close()
  }
}

/** A role as it stands in the catalog. */
export interface FoundRole extends RoleStatus, Pick<MembersRow, 'login' | 'applied'> {}

/** The same of an open database. */
export async function findRoles(database: Asker): Promise<FoundRole[]> {
  const { schema } = database
  const sql = rolesSql(schema)
  const asked = [
    ...roleNames.map((role) => ({ role, consumer: null })),
    ...(await database.query(sql.consumers)),
  ].map((each) => ({ ...each, name: roleOf(schema, each.role, each.consumer) }))
  const rows = await database.query(sql.members, {
    names: asked.map(({ name }) => name),
    marks: asked.map(({ role, consumer }) => markOf(schema, role, consumer)),
  })
  return rows.map(({ found, ours, members, login, applied }, index) => ({
    ...asked[index]!,
    ...{ exists: found, ours: found && ours, members, login, applied },
  }))
}
