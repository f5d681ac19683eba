import type { Database } from '../../src/database/database.ts'
import { demoSql } from '../sql/demo.ts'
import { hireServer, perform, type Performance } from '../stage/performance.ts'
import { brokerUrlOf, chooseServer, openScratch, type Place } from '../stage/scratch.ts'
import type { DemoRun } from './run.ts'
import { Crew, type Member } from './crew.ts'
import type { Role } from './child.ts'
import { Disaster } from './disaster.ts'
import { judge, renderVerdict, type Verdict } from './verdict.ts'
import { Watch } from './watch.ts'
import { realWebhooks, webhookLibrary } from './webhooks.ts'

export interface DemoOptions extends Place {
  readonly messages: number
  readonly json?: boolean
}

/**
 * The main job before your eyes: publishes webhooks, relays, receives and handles them in processes of their own,
 * kills two of these, and holds the outcome against what was committed. Leaves nothing behind.
 */
export async function runDemo(asked: DemoOptions): Promise<0 | 1> {
  brokerUrlOf(asked)
  const options = chooseServer('demo', asked)
  const startedAt = performance.now()
  const crew = new Crew()
  return perform(
    'demo',
    crew,
    (stage) => play(options, { crew, startedAt, ...stage }),
    (verdict) => {
      if (options.json !== true) process.stdout.write(renderVerdict(verdict))
      else process.stdout.write(`${JSON.stringify(verdict)}\n`)
      if (options.json === true && !verdict.ok) process.stderr.write(`${verdict.problems.join('\n')}\n`)
      return verdict.ok ? 0 : 1
    },
  )
}

interface Stage extends Performance {
  readonly crew: Crew
  readonly startedAt: number
}

async function play(options: DemoOptions, stage: Stage): Promise<Verdict> {
  const { crew, view, startedAt } = stage
  if (realWebhooks() === null)
    view.say(`${webhookLibrary} is not installed: the webhooks are made up, of the same shape and sizes.`)
  const { run, database } = await setUp(options, stage)
  const sql = demoSql(run.schema)
  const watch = new Watch(run, database, view, startedAt)
  const disaster = new Disaster(crew, database, (text) => view.say(text))
  crew.onSeen = (member, seen) => {
    disaster.see(member, seen)
    if ('error' in seen.event) watch.complaint = `${member.name}: ${String(seen.event.error)}`
  }

  view.say(`Starting a receiver, two relays, three claimers and a publisher, over ${run.broker} …`)
  // Before the relays: what nobody has subscribed to cannot be sent.
  const hire = (name: string, role: Exclude<Role, 'server'>): Promise<Member> =>
    crew.hire(name, role, { type: 'begin', role, run })
  await hire('receiver', 'receiver')
  await Promise.all([
    ...[1, 2].map((number) => hire(`relay ${number}`, 'relay')),
    ...[1, 2, 3].map((number) => hire(`claimer ${number}`, 'claimer')),
  ])
  view.show(
    run.messages,
    () => linesOf(crew),
    () => summaryOf(crew),
  )
  const publisher = await hire('publisher', 'publisher')

  const half = Math.ceil(run.messages / 2)
  await watch.until(async ({ published, handled }) => published >= half && handled >= half * 0.8)
  // The second half comes in a burst, so that there is work in flight when the two die.
  crew.tell(publisher, { type: 'proceed' })
  await disaster.strike()
  await watch.until(async ({ published }) => {
    if (crew.published === null || published < run.messages) return false
    const [left] = await database.query(sql.left)
    if (left!.dead_letters > 0) throw new Error(`A message became a dead letter: ${left!.reason}`)
    return left!.outbox + left!.inbox + left!.deferred + left!.parked === 0 && (await allArrived(watch))
  })
  view.end()
  const unruly: string[] = []
  const workers = crew.members.filter(({ role }) => role !== 'server')
  await Promise.all(
    workers.map(async (member) => {
      if (!(await crew.dismiss(member, { type: 'stop' })))
        unruly.push(`The ${member.name} did not stop when it was asked to`)
      else if (member.state === 'ended' && member.process.exitCode !== 0)
        unruly.push(`The ${member.name} stopped with exit code ${member.process.exitCode}`)
    }),
  )
  view.say('Holding the business table against the ledger …')
  return judge(run, database, disaster, crew.published!, unruly, startedAt)
}

/** Empty tables are not enough: with a broker between them, messages may be on the way. */
async function allArrived(watch: Watch): Promise<boolean> {
  if (watch.handled >= watch.published) return true
  return watch.stoodStillMs > 10_000
}

async function setUp(
  options: DemoOptions,
  { crew, ...stage }: Stage,
): Promise<{ run: DemoRun; database: Database }> {
  const { run, database } = await openScratch({
    what: 'demo',
    place: options,
    databaseUrl: options.database ?? (await hireServer(crew, stage)),
    sql: demoSql,
    say: (text) => stage.view.say(text),
    cleanUp: stage.cleanUp,
  })
  return { run: { ...run, messages: options.messages }, database }
}

/** A line for each process that works on messages. */
function linesOf(crew: Crew): string[] {
  return crew.members.flatMap((member) => {
    if (member.role === 'server' || member.role === 'publisher') return []
    const pid = `pid ${member.process.pid}`.padEnd(12)
    return [`${member.name.padEnd(10)} ${pid} ${holding(member)}, ${verb[member.role]} ${member.done}`]
  })
}

function summaryOf(crew: Crew): string {
  return crew.members
    .filter(({ role }) => role === 'relay' || role === 'claimer')
    .map((member) => `${member.name} ${holding(member)}`)
    .join(', ')
}

const verb = { relay: 'sent', receiver: 'received', claimer: 'handled' } as const

function holding(member: Member): string {
  if (member.state === 'killed') return 'killed'
  if (member.role === 'receiver') return member.state
  const lanes = `${member.lanes.size} lanes`
  return member.role === 'claimer'
    ? `${lanes}, ${Math.max(0, member.claimed - member.done)} in flight`
    : lanes
}
