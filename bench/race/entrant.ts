import type { Tally } from './tally.ts'

/** A broker beside Postgres. */
/** `platformatic` is Kafka by its second client library. */
export type BrokerKind = 'rabbitmq' | 'kafka' | 'platformatic' | 'zeromq'

/** What the entrants of a lap have in common: told to the processes that do the work. */
export interface Task {
  /** How many messages there are in all. */
  readonly messages: number
  readonly processes: number
  /** Handlers at a time in one process; where there are no handlers, connections. */
  readonly concurrency: number
  readonly batchSize: number
  readonly payload: PayloadKind
  readonly keys: KeyKind
  /** How often the handler of each message fails before it succeeds. */
  readonly failures?: number
  /**
   * What the handlers do: nothing, at once or a turn of the event loop later; insert a row in the transaction that they are given, alone or for many messages; or
   * never end.
   */
  readonly handler?: 'no-op' | 'async' | 'insert' | 'insert-many' | 'hold'
  /** Where the brokers of the scenario are. */
  readonly broker?: { readonly kind: BrokerKind; readonly address: string }
  /** Messages per second, where they are published meanwhile, for so long; the rest comes at once then. */
  readonly perSecond?: number
  readonly steadyMs?: number
  /** The lap ends when so many are done; the others only wait. */
  readonly upTo?: number
  /** How many of a key may be handled and not completed. */
  readonly keyWindow?: number
  /** How many share the transaction of their handlers. */
  readonly runSize?: number
  /** How many keys there are, where there are many; 10,000 if nothing is said. */
  readonly keyCount?: number
  /** How many consumers get each message. */
  readonly consumers?: number
  /** How many claimers share a process. */
  readonly claimers?: number
}

/** 215 bytes of JSON; what GitHub sends as webhooks; a MiB of JSON, or of bytes. */
export type PayloadKind = 'small' | 'github' | 'large' | 'large bytes'
/** None; many; the same with nine tenths of the messages in one of them. */
export type KeyKind = 'none' | 'many' | 'hot'

/** One of several processes. */
export interface Place {
  readonly url: string
  /** From 0. */
  readonly process: number
}

export type Stop = () => Promise<void>

/** A program in a race. All but `work` runs in the process of the bench. */
export interface Entrant {
  /** Makes tables in an empty database. */
  create(url: string, task: Task): Promise<void>
  /** Puts the messages there that are to be worked off. */
  fill?(url: string, task: Task): Promise<void>
  /** A query for `left`: what has not been done to the end. */
  readonly left?: string
  /** A query for what publishing has left behind: `n` of each message, in the order in which they would be worked off. */
  readonly written?: string
  /** It promises that what one connection publishes is worked off in that order. */
  readonly keepsOrder?: boolean
  /** Its `work` resolves when all is done: it works as soon as it has dealt with a message. */
  readonly once?: true
  /** Works, and notes each message that it has dealt with. Resolves once it works, or once it is done. */
  work(place: Place, task: Task, tally: Tally): Promise<Stop>
}
