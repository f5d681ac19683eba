import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createCrew, type Cast } from '../soak/company.ts'
import { conduct, type Scene, type Stage } from '../soak/conduct.ts'
import { holding } from '../soak/gauge.ts'
import { realWebhooks, webhookLibrary } from '../soak/webhooks.ts'
import { perform } from '../stage/performance.ts'
import { brokerUrlOf, chooseServer, type Place } from '../stage/scratch.ts'
import type { View } from '../stage/view.ts'
import { Kills } from './kills.ts'
import { explain, remarkLines, say } from '../../src/terminal/output.ts'
import { judge, renderVerdict, type Verdict } from './verdict.ts'

export interface DemoOptions extends Place {
  readonly messages: number
  readonly json?: boolean
}

/** Nothing may hang: the longest that a demo stands still. */
const standstillMs = 30_000

/** Nobody takes the place of those that are killed: it is for the others to go on. */
const cast: Cast = {
  strength: { receiver: 1, relay: 2, claimer: 3, publisher: 1 },
  options: (role) => (role === 'claimer' ? { concurrency: 8 } : {}),
  network: false,
  replaces: false,
  closely: true,
}

/**
 * The main job before your eyes: a soak with webhooks for messages and two kills for faults, which tells what happens. Leaves
 * nothing behind.
 */
export async function runDemo(asked: DemoOptions): Promise<0 | 1> {
  brokerUrlOf(asked)
  const options = chooseServer('demo', asked)
  const startedAt = performance.now()
  const crew = createCrew()
  const folder = mkdtempSync(join(tmpdir(), 'twinbox-demo-'))
  const remove = (): void => rmSync(folder, { recursive: true, force: true })
  // A second signal leaves no time to undo what else was made.
  process.once('exit', remove)
  try {
    return await perform(
      'demo',
      crew,
      (stage) => play(options, { crew, folder, ...stage }, startedAt),
      (verdict) => {
        if (options.json === true) say(JSON.stringify(verdict))
        else explain(renderVerdict(verdict).trimEnd())
        if (options.json === true && !verdict.ok) remarkLines(verdict.problems.join('\n'))
        return verdict.ok ? 0 : 1
      },
    )
  } finally {
    process.off('exit', remove)
    remove()
  }
}

async function play(options: DemoOptions, stage: Stage, startedAt: number): Promise<Verdict> {
  const { view } = stage
  const { messages } = options
  if (realWebhooks() === null)
    view.say(`${webhookLibrary} is not installed: the webhooks are made up, of the same shape and sizes.`)
  let kills: Kills | null = null
  const outcome = await conduct(
    {
      ...{ what: 'demo', place: options, cast, restartBroker: null, sampleMs: 200, standstillMs },
      // As fast as it can.
      load: { seed: 0, rate: 1_000_000, webhooks: messages, keys: 0, oneInDies: 0 },
      act: async (scene) => {
        kills = new Kills(scene, (text) => view.say(text))
        await tell(scene, view, kills, messages)
      },
    },
    stage,
  )
  return judge(outcome, kills!, startedAt)
}

/** Half of the webhooks, then the rest in a burst, so that there is work in flight when the two die. */
async function tell({ company, gauge }: Scene, view: View, kills: Kills, messages: number): Promise<void> {
  const { crew, posts } = company
  const inShort = (): string =>
    posts
      .filter(({ role }) => role === 'relay' || role === 'claimer')
      .map(({ name, member }) => `${name} ${member === null ? 'missing' : holding(member)}`)
      .join('; ')
  view.show(messages, () => gauge.lines(), inShort)
  const until = async (isSo: () => boolean): Promise<void> => {
    for (; !isSo(); await sleep(30)) {
      await gauge.look()
      view.update(gauge.published, gauge.handled)
      if (gauge.stoodStillMs > standstillMs)
        throw new Error(
          `Nothing has happened for ${standstillMs / 1000} s: of ${messages} messages ${gauge.leftovers()}`,
        )
    }
  }
  const half = Math.ceil(messages / 2)
  await until(() => gauge.published >= half && gauge.handled >= half * 0.8)
  for (const publisher of crew.of('publisher')) crew.tell(publisher, { type: 'proceed' })
  await kills.strike()
  await until(() => gauge.published >= messages)
}
