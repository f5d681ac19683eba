import type { ValuesOf } from '../database/sql/parameter.ts'
import type { DatabaseInput } from '../database/database.ts'
import { catchUps, scheduleSql, type CatchUp, type ScheduleRow } from '../database/sql/schedule.ts'
import { OptionError } from '../base/errors.ts'
import { checkMessage } from '../message/check.ts'
import { jsonContentType, type NewMessage } from '../message/message.ts'
import { limits, numberOptions, oneOf, refuseUnknown, text, whole } from '../base/options.ts'
import { Ticks } from '../upkeep/cron.ts'
import { sign, type Signature, type Signed } from './filter.ts'
import { withTables } from './tables.ts'

export interface SchedulesOptions {
  /** Where the tables are: a connection string, `pg` options, or your own pool. */
  readonly database: DatabaseInput
  /** @default 'twinbox' */
  readonly schema?: string | undefined
}

/** A message that is published again and again. */
export interface NewSchedule extends Pick<
  NewMessage,
  'topic' | 'key' | 'payload' | 'headers' | 'contentType'
> {
  /** 1 to 100 characters of `A-Z a-z 0-9 . _ -`. */
  readonly name: string
  /** Five fields (minute, hour, day, month, day of the week), or six with seconds before them. */
  readonly cron: string
  /** Whose clock counts, such as `Europe/Berlin`. @default 'UTC' */
  readonly timeZone?: string | undefined
  /**
   * What becomes of ticks that were missed by more than a minute, since no relay was there: `one` message for all of
   * them, for the last; `skip` none; `all` one for each, in order. @default 'one'
   */
  readonly catchUp?: CatchUp | undefined
  /** How long after its tick a message may still be handled. In milliseconds. @default for ever */
  readonly expiresMs?: number | undefined
}

/** A schedule as it stands. */
export interface Schedule {
  readonly name: string
  readonly cron: string
  readonly timeZone: string
  readonly catchUp: CatchUp
  readonly topic: string
  readonly key: string | null
  readonly headers: Readonly<Record<string, string>>
  readonly contentType: string
  readonly expiresMs: number | null
  /** Null if there is none any more. */
  readonly nextAt: Date | null
  /** The last tick that was published. */
  readonly lastAt: Date | null
  readonly pausedAt: Date | null
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** Each change leaves a row in the audit, with who made it and why, if that is given. */
export interface Schedules {
  /**
   * Declares a schedule: creates it, or changes it to this. Declaring the same again, at every start of your
   * application, changes nothing. With other times it starts with the first tick from now on; else it goes on where it
   * was, paused if it was.
   *
   * @throws OptionError, MessageError before any SQL; SchemaError, or the database's error
   */
  set(schedule: NewSchedule, by?: Signature): Promise<{ readonly changed: boolean }>
  /** False if there was none of this name. What it has published is not taken back. */
  remove(name: string, by?: Signature): Promise<boolean>
  /** Publishes no more, until resumed. False if there is none of this name. */
  pause(name: string, by?: Signature): Promise<boolean>
  /** Goes on with the first tick from now on: what came meanwhile was paused on purpose. False if it is not paused. */
  resume(name: string, by?: Signature): Promise<boolean>
  /** By name. */
  list(): Promise<Schedule[]>
}

/**
 * Recurring messages. The relays publish them: each tick once, however many there are, by the clock of the database. It
 * holds no connection and needs no closing.
 *
 * Each message is published like any other; its `publishedAt` is its tick.
 *
 * @throws OptionError
 */
export function createSchedules(options: SchedulesOptions): Schedules {
  refuseUnknown('createSchedules', options, ['database', 'schema'])
  const { database: input, schema } = options
  if (input === undefined)
    throw new OptionError('database', 'database is required: a connection string or a pg pool.')
  const one = async (which: 'remove' | 'pause', name: string, by?: Signature): Promise<boolean> => {
    checkName(name)
    const signed = readSignature(by)
    return withTables(input, schema, async (database) => {
      const rows = await database.query(scheduleSql(database.schema)[which], { name, ...signed })
      return rows.length > 0
    })
  }
  return {
    async set(schedule, by) {
      const { ticks, values } = check(schedule)
      const signed = readSignature(by)
      return withTables(input, schema, async (database) => {
        const sql = scheduleSql(database.schema)
        const [clock] = await database.query(sql.now)
        const nextAt = ticks.next(clock!.now)
        if (nextAt === null)
          throw new OptionError('cron', `cron is "${schedule.cron}", a time that never comes.`)
        const changed = await database.query(sql.set, { ...values, nextAt, ...signed })
        return { changed: changed.length > 0 }
      })
    },
    remove: (name, by) => one('remove', name, by),
    pause: (name, by) => one('pause', name, by),
    async resume(name, by) {
      checkName(name)
      const signed = readSignature(by)
      return withTables(input, schema, async (database) => {
        const sql = scheduleSql(database.schema)
        const [row] = await database.query(sql.list, { name })
        if (row === undefined) return false
        const [clock] = await database.query(sql.now)
        const nextAt = new Ticks(row.cron, row.time_zone).next(clock!.now)
        return (await database.query(sql.resume, { name, nextAt, ...signed })).length > 0
      })
    },
    list: () =>
      withTables(input, schema, async (database) =>
        (await database.query(scheduleSql(database.schema).list, { name: null })).map(toSchedule),
      ),
  }
}

type Values = Omit<ValuesOf<ReturnType<typeof scheduleSql>['set']['takes']>, 'nextAt' | keyof Signed>

function check(schedule: NewSchedule): { ticks: Ticks; values: Values } {
  refuseUnknown('a schedule', schedule, [
    'name',
    'cron',
    'timeZone',
    'catchUp',
    'expiresMs',
    'topic',
    'key',
    'payload',
    'headers',
    'contentType',
  ])
  const { name, cron, timeZone, catchUp, expiresMs, ...message } = schedule
  checkName(name)
  const zone = timeZone ?? 'UTC'
  const ticks = new Ticks(cron, zone)
  const policy = oneOf('catchUp', catchUp, catchUps)
  const expires = expiresMs === undefined ? null : whole('expiresMs', expiresMs, 1, 1, limits.aheadMs)
  const { topic, key, headers, content, contentType } = checkMessage(
    message,
    numberOptions.maxPayloadBytes.default,
  )
  const [payload, body] = typeof content === 'string' ? [content, null] : [null, Buffer.from(content)]
  return {
    ticks,
    values: {
      ...{ name, cron, timeZone: zone, catchUp: policy, topic, key, headers, payload, body, contentType },
      expiresMs: expires,
    },
  }
}

/** @throws OptionError */
function readSignature(by: Signature = {}): Signed {
  refuseUnknown('a signature', by, ['by', 'reason'])
  return sign(by)
}

function checkName(name: string): void {
  if (name === undefined) throw new OptionError('name', 'name is required.')
  text('name', name, '', /^[A-Za-z0-9._-]{1,100}$/)
}

function toSchedule(row: ScheduleRow): Schedule {
  return {
    name: row.name,
    cron: row.cron,
    timeZone: row.time_zone,
    catchUp: row.catch_up,
    topic: row.topic,
    key: row.key,
    headers: row.headers === null ? {} : (JSON.parse(row.headers) as Record<string, string>),
    contentType: row.content_type ?? jsonContentType,
    expiresMs: row.expires_ms,
    nextAt: row.next_at,
    lastAt: row.last_at,
    pausedAt: row.paused_at,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}
