import type { EventEmitter } from 'node:events'
import type pg from 'pg'
import { isConnectionLost, sqlstate } from './sqlstate.ts'

/**
 * What a connection itself has told of how it is. The shape of an error that somebody has thrown tells nothing: a handler's
 * own service refuses connections with the same codes, and another database's errors look like those of this one.
 */
export interface Evidence {
  /** Why it is of no more use; null while it is sound. What the server has said last counts more than that it was cut. */
  readonly gone: Error | null
  /** The last error that the server has sent on it, but for 25P02, which only repeats an earlier one. Null after `forget`. */
  readonly heard: Error | null
  /** The server has said that it ends this session because it stops, or because another session's process has crashed. */
  readonly spared: boolean
  /** Another user of the connection begins. */
  forget(): void
}

/** With these the server ends a session. */
const isFinal = (error: unknown): boolean => /^(08|57P0|25P0[34])/.test(sqlstate(error) ?? '')

class Record implements Evidence {
  heard: Error | null = null
  spared = false
  #gone: Error | null = null

  constructor(client: pg.ClientBase) {
    client.on('error', (error) => void (this.#gone ??= error))
    client.on('end', () => void (this.#gone ??= new Error('Connection terminated')))
    // As a notice, since it comes in the middle of whatever the session was doing.
    client.on('notice', ({ code }) => void (this.spared ||= /^57P0[12]$/.test(code ?? '')))
    // While a statement runs, its caller is told and nobody else; and a handler may swallow what it is told.
    const { connection } = client as unknown as { connection?: EventEmitter }
    connection?.on('errorMessage', (error: Error) => {
      if (sqlstate(error) !== '25P02') this.heard = error
    })
  }

  get gone(): Error | null {
    return this.#gone !== null && isFinal(this.heard) ? this.heard : this.#gone
  }

  forget(): void {
    this.heard = null
  }
}

const records = new WeakMap<pg.ClientBase, Evidence>()

/** The evidence of a client, from when it was first asked for. */
export function evidenceOf(client: pg.ClientBase): Evidence {
  let evidence = records.get(client)
  if (evidence === undefined) records.set(client, (evidence = new Record(client)))
  return evidence
}

const met = new WeakSet<object>()

/** What work with the database gives; its error is known as the database's from then on, wherever it turns up. */
export async function ofDatabase<Result>(work: Promise<Result>): Promise<Result> {
  try {
    return await work
  } catch (error) {
    if (typeof error === 'object' && error !== null) met.add(error)
    throw error
  }
}

/** Whether the error says that our database is out of reach: a connection or a statement of ours has met it. */
export function isOutage(error: unknown): boolean {
  return typeof error === 'object' && error !== null && met.has(error) && isConnectionLost(error)
}
