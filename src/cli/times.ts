import type { PruneKind } from '../database/sql/upkeep.ts'
import { prune } from '../operate/prune.ts'
import { createSchedules, type NewSchedule, type Schedule } from '../operate/schedules.ts'
import { confirmed } from './confirm.ts'
import { UsageError } from '../terminal/failure.ts'
import { consumerOf, type ChangeFlags } from './letters.ts'
import { ms } from './log.ts'
import { signatureOf, type SignatureFlags } from './signature.ts'
import { readSettings } from './settings.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import { untilStopped } from './until.ts'
import { remark, say, sayTable } from '../terminal/output.ts'

async function schedulesOf(
  flags: CommonFlags,
): Promise<{ schema: string; schedules: ReturnType<typeof createSchedules> }> {
  const { schema, database } = await readSettings(flags)
  return { schema, schedules: createSchedules({ database: database(), schema }) }
}

export async function listSchedules(flags: CommonFlags): Promise<void> {
  const { schema, schedules } = await schedulesOf(flags)
  const all = await schedules.list()
  if (flags.json === true) return void say(JSON.stringify({ schema, schedules: all }))
  if (all.length === 0) return void say('There are no schedules.')
  const now = Date.now()
  const next = ({ pausedAt, nextAt }: Schedule): string => {
    if (pausedAt !== null) return 'paused'
    return nextAt === null
      ? 'never'
      : `${nextAt.toISOString()} (in ${ms(Math.max(0, nextAt.getTime() - now))})`
  }
  sayTable(
    ['name', 'cron', 'zone', 'topic', 'key', 'catch up', 'last', 'next'],
    all.map((schedule) => [
      ...[
        schedule.name,
        schedule.cron,
        schedule.timeZone,
        schedule.topic,
        schedule.key ?? '-',
        schedule.catchUp,
      ],
      schedule.lastAt?.toISOString() ?? '-',
      next(schedule),
    ]),
    {
      drops: ['last', 'catch up', 'key', 'zone'],
      cuts: { name: 'middle', topic: 'middle', key: 'middle' },
    },
  )
}

export interface ScheduleFlags extends CommonFlags, SignatureFlags {
  readonly topic: string
  readonly key?: string
  readonly payload?: string
  readonly zone?: string
  readonly catchUp?: NewSchedule['catchUp']
  readonly expiresAfter?: number
}

export async function addSchedule(name: string, cron: string, flags: ScheduleFlags): Promise<void> {
  let payload: unknown
  try {
    payload = JSON.parse(flags.payload ?? 'null')
  } catch {
    throw new UsageError('--payload must be JSON.')
  }
  const { schedules } = await schedulesOf(flags)
  const { topic, key, zone: timeZone, catchUp, expiresAfter: expiresMs } = flags
  const { changed } = await schedules.set(
    { name, cron, timeZone, topic, key, payload, catchUp, expiresMs },
    signatureOf(flags),
  )
  if (flags.json === true) say(JSON.stringify({ name, changed }))
  else say(changed ? `The schedule "${name}" is set.` : `The schedule "${name}" was like that already.`)
}

/** 1 if there is nothing of that name to do it to. */
export async function changeSchedule(
  action: 'remove' | 'pause' | 'resume',
  name: string,
  flags: CommonFlags & SignatureFlags & { yes?: boolean },
): Promise<0 | 1> {
  const { schema, schedules } = await schedulesOf(flags)
  if (action === 'remove' && !(await confirmed(`This deletes the schedule "${name}".`, flags.yes))) return 1
  const done = await schedules[action](name, signatureOf(flags))
  if (flags.json === true) say(JSON.stringify({ name, done }))
  else if (done)
    say(`${{ remove: 'Removed', pause: 'Paused', resume: 'Resumed' }[action]} the schedule "${name}".`)
  if (done) return 0
  const state = action === 'resume' ? 'paused schedule' : 'schedule'
  remark(`There is no ${state} "${name}" in the schema "${schema}".`)
  return 1
}

/** Deletes what is old, after a question. 1 if it was stopped or called off. */
export async function pruneKind(kind: PruneKind, flags: ChangeFlags): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const options = {
    schema,
    consumer: consumerOf(flags),
    olderThanMs: flags.olderThan,
    by: flags.by,
    reason: flags.reason,
  }
  const dryRun = flags.dryRun === true
  if (!dryRun) {
    const count = flags.yes === true ? 0 : await prune(database(), kind, { ...options, dryRun: true })
    if (!(await confirmed(`This deletes ${count} rows of ${kind}.`, flags.yes))) return 1
  }
  const { result: count, stopped } = await untilStopped('pruned', (watch) =>
    prune(database(), kind, { ...options, ...watch, dryRun }),
  )
  if (flags.json === true) say(JSON.stringify({ kind, count, dryRun, stopped }))
  else say(dryRun ? `Would be pruned: ${count}.` : `Pruned: ${count}.`)
  return stopped ? 1 : 0
}
