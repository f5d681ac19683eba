import type { Config } from '../config.ts'
import { diagnose, type Demand, type Finding } from '../doctor/doctor.ts'
import { numberOptions } from '../base/options.ts'
import type { Flags } from '../terminal/flags.ts'
import { explain, say } from '../terminal/output.ts'
import { readSettings } from './settings.ts'

/** Beside those of its handlers, a worker has up to so many. */
const ownConnections = 6

/** Tells what is wrong and what to do; 1 if anything is. */
export async function runDoctor(flags: Flags): Promise<0 | 1> {
  const { schema, database, config } = await readSettings(flags)
  const findings = await diagnose(database(), { schema, demand: demandOf(config) })
  const ok = findings.every(({ level }) => level !== 'wrong')
  if (flags.json === true) say(JSON.stringify({ schema, ok, findings }))
  else explain(told(findings))
  return ok ? 0 : 1
}

function demandOf({ consumers = {} }: Config): Demand[] {
  const named = Object.entries(consumers)
  if (named.length === 0) return []
  const { concurrency } = numberOptions
  return [
    { who: 'relay', connections: ownConnections },
    ...named.flatMap(([consumer, config]) => [
      { who: `receiver ${consumer}`, connections: ownConnections },
      {
        who: `claimer ${consumer}`,
        connections: (config.concurrency ?? concurrency.default) + ownConnections,
      },
    ]),
  ]
}

const marks = { ok: 'ok   ', note: 'note ', wrong: 'WRONG' } as const

function told(findings: readonly Finding[]): string {
  const lines = findings.flatMap(({ check, level, found, advice }) => [
    `${marks[level]}  ${check}: ${found}`,
    ...(advice === null ? [] : [`       → ${advice}`]),
  ])
  const count = findings.filter(({ level }) => level === 'wrong').length
  const end = count === 0 ? 'Nothing is wrong.' : `${count} ${count === 1 ? 'thing is' : 'things are'} wrong.`
  return `${lines.join('\n')}\n\n${end}`
}
