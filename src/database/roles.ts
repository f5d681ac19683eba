import { checkSchema } from '../base/options.ts'
import { openDatabase, type DatabaseInput, type DatabaseOptions } from './database.ts'
import { checkSchemaIsNewest } from './migrate.ts'
import { roleNames, type RoleName } from './sql/grants.ts'
import { markOf, roleOf, rolesSql } from './sql/roles.ts'

/** A role of least privilege, and who has it. */
export interface RoleStatus {
  readonly role: RoleName
  /** Its name in the database: the schema's and its own, `twinbox_relay`. */
  readonly name: string
  readonly exists: boolean
  /** Whether `applyRoles` made it; another one of its name is refused. False if there is none. */
  readonly ours: boolean
  /** Roles that are granted it. */
  readonly members: readonly string[]
}

/** The SQL that makes the roles and gives each what it needs. What `twinbox roles --print` prints. @throws OptionError */
export const rolesScript = (schema = 'twinbox'): string => rolesSql(checkSchema(schema)).script

/**
 * Makes the seven roles where they are missing, and gives each of them what it needs and nothing else. Repeat it after a
 * migration. In one transaction; needs the owner of the tables, and CREATEROLE. Grant the
 * roles to the users that your processes log in as.
 *
 * Roles belong to all databases of a server: a member in one is a member in all. A role of such a name that Twinbox has not made, as
 * its comment says, is refused, since nobody knows who its members are.
 *
 * @throws SchemaError, or the database's error: SQLSTATE 42710 for a role that Twinbox has not made. Then nothing was changed
 */
export async function applyRoles(input: DatabaseInput, options: DatabaseOptions = {}): Promise<void> {
  const { database, owned } = openDatabase(input, { ...options, poolSize: 1 })
  try {
    // It begins by taking everything back: what it does not know, newer workers would lack.
    await checkSchemaIsNewest(database)
    await database.transaction((client) => client.query(rolesSql(database.schema).script))
  } finally {
    if (owned) await database.close()
  }
}

/** Reads which of the roles there are, and who has them. @throws the database's error */
export async function readRoles(input: DatabaseInput, options: DatabaseOptions = {}): Promise<RoleStatus[]> {
  const { database, owned } = openDatabase(input, { ...options, poolSize: 1 })
  try {
    const rows = await database.query(rolesSql(database.schema).members, {
      names: roleNames.map((role) => roleOf(database.schema, role)),
      marks: roleNames.map((role) => markOf(database.schema, role)),
    })
    return roleNames.map((role, index) => ({
      role,
      name: roleOf(database.schema, role),
      exists: rows[index]!.found,
      ours: rows[index]!.found && rows[index]!.ours,
      members: rows[index]!.members,
    }))
  } finally {
    if (owned) await database.close()
  }
}
