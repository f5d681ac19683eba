import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../../base/errors.ts'
import { takes } from '../../message/message.ts'
import type { Admin, Client } from './client.ts'
import { toTrouble, typeOf } from './errors.ts'
import type { Settings } from './options.ts'

/** Topics that cannot be had, and why. */
export type Missing = ReadonlyMap<string, BrokerError>

/** How many topics may still be created. */
export interface Quota {
  /** Takes so many, or as many as there are left, and says how many those are. */
  take(count: number): number
  /** For those that were not created after all. */
  giveBack(count: number): void
}

const hourMs = 3_600_000

/** At most so many in any hour. */
export function quotaPerHour(most: number): Quota {
  let taken: number[] = []
  return {
    take: (count) => {
      const now = performance.now()
      taken = taken.filter((at) => now - at < hourMs)
      const granted = Math.min(most - taken.length, count)
      taken.push(...Array.from({ length: granted }, () => now))
      return granted
    },
    giveBack: (count) => void taken.splice(taken.length - count),
  }
}

/** For topics that the application names itself, and nobody else. */
const unlimited: Quota = { take: (count) => count, giveBack: () => {} }

/** Those that do not exist. @throws what the client library throws */
export function findAbsent(client: Client, names: readonly string[]): Promise<readonly string[]> {
  return client.withAdmin(async (admin) => {
    const existing = new Set(await admin.topics())
    return names.filter((name) => !existing.has(name))
  })
}

/**
 * With `topology: 'declare'`, creates topics that do not exist, in one request and as far as the quota goes.
 * @returns those that cannot be had @throws what the client library throws
 */
export async function createTopics(
  client: Client,
  absent: readonly string[],
  settings: Settings,
  quota: Quota = unlimited,
): Promise<Missing> {
  if (settings.topology === 'check') return refusing(absent, notThere)
  const wanted = absent.slice(0, quota.take(absent.length))
  const tooMany = refusing(absent.slice(wanted.length), (name) => overQuota(name, settings))
  if (wanted.length === 0) return tooMany
  try {
    const refused = await client.withAdmin((admin) => create(admin, wanted, settings))
    quota.giveBack(refused.size)
    return new Map([...refused, ...tooMany])
  } catch (error) {
    quota.giveBack(wanted.length)
    throw error
  }
}

const refusing = (names: readonly string[], why: (name: string) => BrokerError): Missing =>
  new Map(names.map((name) => [name, why(name)]))

const notThere = (name: string): BrokerError =>
  new BrokerError(
    'config',
    `Kafka has no topic "${name}". Create it (kafka-topics.sh --create), or have it created with topology: 'declare' ` +
      "of kafka(), or drop its messages with unroutable: 'drop'.",
  )

const overQuota = (name: string, { maxNewTopics }: Settings): BrokerError =>
  new BrokerError(
    'config',
    `Kafka has no topic "${name}", and ${maxNewTopics} topics have been created within the last hour (maxNewTopics of kafka()). ` +
      `Create it (kafka-topics.sh --create), wait, or raise maxNewTopics.`,
  )

/** Gives those that the broker refused by name. @throws what the client library throws */
async function create(admin: Admin, names: readonly string[], settings: Settings): Promise<Missing> {
  const refusals = await admin.create(names, settings)
  const refused = new Map(
    refusals
      // Somebody else may have been faster.
      .filter(({ error }) => typeOf(error) !== 'TOPIC_ALREADY_EXISTS')
      .map(({ topic, error }) => [topic, toTrouble(`Could not create topic "${topic}"`, error)]),
  )
  await untilListed(
    admin,
    names.filter((name) => !refused.has(name)),
  )
  return refused
}

/** For a moment after their creation, not every broker knows them. Gives up after a second: those who use them retry. */
async function untilListed(admin: Admin, names: readonly string[]): Promise<void> {
  for (let looks = 0; looks < 20; looks++) {
    const listed = new Set(await admin.topics())
    if (names.every((name) => listed.has(name))) return
    await sleep(50)
  }
}

const isPattern = (topic: string): boolean => /[*#]/.test(topic)

/** The topics to subscribe to by now, sorted. Names are created when `createTopics` does that; patterns find. */
export async function findTopics(
  client: Client,
  patterns: readonly string[],
  settings: Settings,
): Promise<{ readonly topics: readonly string[]; readonly missing: Missing }> {
  const names = patterns.filter((pattern) => !isPattern(pattern))
  const absent = names.length === 0 ? [] : await findAbsent(client, names)
  const missing = await createTopics(client, absent, settings)
  const found = new Set(names.filter((name) => !missing.has(name)))
  if (names.length < patterns.length) {
    for (const topic of await client.withAdmin((admin) => admin.topics())) {
      // Two underscores are Kafka's own: `#` does not mean the offsets of all consumer groups.
      if (!topic.startsWith('__') && takes(patterns, topic)) found.add(topic)
    }
  }
  return { topics: [...found].toSorted(), missing }
}
