import type { Filtering } from '../database/sql/dead.ts'
import { hostname, userInfo } from 'node:os'
import type { DeadScope } from '../database/sql/dead.ts'
import { OptionError } from '../base/errors.ts'
import { checkConsumer, refuseUnknown, whole } from '../base/options.ts'

/** Which dead letters are meant: those for which all that is given holds. */
export interface DeadLetterFilter {
  /** Those of this consumer; null for those of the outbox. @default all */
  readonly consumer?: string | null | undefined
  /** Those of this topic. @default all */
  readonly topic?: string | undefined
  /** Those of this key. @default all */
  readonly key?: string | undefined
  /** Those whose reason contains this text, whatever the case. @default all */
  readonly error?: string | undefined
  /** Those whose error was of this class, such as `TypeError`. @default all */
  readonly errorClass?: string | undefined
  /** Those that died at least so long ago, in milliseconds. @default all */
  readonly olderThanMs?: number | undefined
  /** Those that died at most so long ago, in milliseconds. @default all */
  readonly youngerThanMs?: number | undefined
  /** Those with these numbers; with `ids` as well, these and those. @default all */
  readonly numbers?: readonly number[] | undefined
  /** Those of the messages with these ids, of all consumers that have given up on them. @default all */
  readonly ids?: readonly string[] | undefined
}

/** Who does something, and why: it is kept for those who ask later. */
export interface Signature {
  /** @default the user and host of this process */
  readonly by?: string | undefined
  /** Up to 1000 characters. @default none */
  readonly reason?: string | undefined
}

const idPattern = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i
const listMax = 1000
const ageMax = 3650 * 86_400_000

/** Whether it can be the id of a message. */
export const isMessageId = (id: unknown): boolean => typeof id === 'string' && idPattern.test(id)

/** A filter as the statements take it: by what its candidates are found, and what they are given. @throws OptionError */
export function readFilter(filter: DeadLetterFilter): { scope: DeadScope; values: Filtering } {
  refuseUnknown('a filter of dead letters', filter, [
    'consumer',
    'topic',
    'key',
    'error',
    'errorClass',
    'olderThanMs',
    'youngerThanMs',
    'numbers',
    'ids',
  ])
  const { consumer, numbers, ids } = filter
  const values = {
    consumer: consumerColumn(consumer),
    topic: textOrNull('topic', filter.topic),
    key: textOrNull('key', filter.key),
    error: textOrNull('error', filter.error),
    errorClass: textOrNull('errorClass', filter.errorClass),
    olderThanMs: ageOrNull('olderThanMs', filter.olderThanMs),
    youngerThanMs: ageOrNull('youngerThanMs', filter.youngerThanMs),
    numbers: listOrNull('numbers', numbers, (number) => Number.isSafeInteger(number) && number > 0),
    ids: listOrNull('ids', ids, isMessageId),
  }
  const named = numbers !== undefined || ids !== undefined
  const narrow = filter.key === undefined ? 'consumer' : 'key'
  const scope = named ? 'named' : consumer === undefined ? 'all' : narrow
  return { scope, values }
}

/** The consumer as its column has it: '' for the outbox, null if it does not matter. @throws OptionError */
export function consumerColumn(consumer: string | null | undefined): string | null {
  if (consumer === undefined) return null
  return consumer === null ? '' : checkConsumer(consumer)
}

/** What an operator has done is written down with this. */
export interface Signed {
  readonly who: string
  readonly why: string | null
}

/** Who and why, as the table `audit` keeps them. @throws OptionError */
export function sign({ by, reason }: Signature): Signed {
  return { who: textOrNull('by', by) ?? processOwner(), why: textOrNull('reason', reason) }
}

function processOwner(): string {
  try {
    return `${userInfo().username}@${hostname()}`
  } catch {
    // A container's user may have no name.
    return `${process.getuid?.() ?? 'unknown'}@${hostname()}`
  }
}

/** @throws OptionError */
export function textOrNull(option: string, value: string | undefined): string | null {
  if (value === undefined) return null
  if (typeof value === 'string' && value.length > 0 && value.length <= 1000 && !value.includes('\0'))
    return value.toWellFormed()
  throw new OptionError(option, `${option} must be text of 1 to 1000 characters.`)
}

/** @throws OptionError */
export function ageOrNull(option: string, value: number | undefined): number | null {
  return value === undefined ? null : whole(option, value, 0, 0, ageMax)
}

function listOrNull<T>(
  option: string,
  value: readonly T[] | undefined,
  isSound: (item: T) => boolean,
): readonly T[] | null {
  if (value === undefined) return null
  if (Array.isArray(value) && value.length > 0 && value.length <= listMax && value.every(isSound))
    return value
  throw new OptionError(
    option,
    `${option} must be an array of 1 to ${listMax} ${option === 'ids' ? 'UUIDs' : 'whole numbers from 1 on'}.`,
  )
}
