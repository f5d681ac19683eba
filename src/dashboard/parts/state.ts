import type { MessageState } from '../../database/sql/placed.ts'
import type { Why } from '../../status/explanation.ts'
import type { Html } from '../html.ts'
import { badge, type Tone } from './badge.ts'

const tones: Readonly<Record<MessageState, Tone>> = {
  ...{ outbox: 'note', inbox: 'note', deferred: 'note', parked: 'warn', unhandled: 'warn' },
  ...{ dead: 'bad', handled: 'good' },
}

/** Where a message is, or that a worker has it in flight. */
export const stateBadge = (state: MessageState, isInFlight = false): Html =>
  isInFlight ? badge('good', 'in flight') : badge(tones[state], state === 'dead' ? 'dead letter' : state)

const bad: readonly Why[] = ['dead', 'no_worker', 'no_handler', 'dead_holder', 'broker_down']
const warn: readonly Why[] = ['retry', 'put_off', 'behind_parked', 'paused', 'below', 'unknown', 'removed']
const good: readonly Why[] = ['handled', 'in_flight', 'gone']

/** Why a message is where it is, in a word. */
export const whyBadge = (why: Why): Html =>
  badge(
    bad.includes(why) ? 'bad' : warn.includes(why) ? 'warn' : good.includes(why) ? 'good' : 'note',
    why.replaceAll('_', ' '),
  )
