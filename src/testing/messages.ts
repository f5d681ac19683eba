import type pg from 'pg'
import { Abort } from '../claimer/abort.ts'
import { Claim } from '../claimer/claim.ts'
import { contextOf, withTransaction } from '../claimer/handler-context.ts'
import type { HandlerContext, TransactionContext } from '../claimer/handlers.ts'
import type { ClaimedRow } from '../database/sql/inbox.ts'
import { loadKysely } from '../database/kysely.ts'
import { checkConsumer, refuseUnknown, whole } from '../base/options.ts'
import { checkMessage } from '../message/check.ts'
import { jsonContentType, newMessageId, type Message } from '../message/message.ts'

/** What a test says of a message; the rest is filled in. */
export type TestMessage<Payload, Topic extends string> = Pick<Message<Payload, Topic>, 'topic' | 'payload'> &
  Partial<Message<Payload, Topic>>

/**
 * A message as a handler gets it, for a test that calls the handler itself. The payload is handed on as it is: what a schema or JSON
 * makes of it, `handle` tells. Every field that is not given is filled in: a new id, no key, no headers, now.
 *
 * @throws MessageError for a topic or a key that no message can have, OptionError for a field that no message has
 */
export function testMessage<const Topic extends string, Payload>(
  given: TestMessage<Payload, Topic>,
): Message<Payload, Topic> {
  const { topic, payload, key = null } = given
  const now = new Date()
  // The type says of each field that it is here: one that is added to messages does not compile until it is.
  const filled: Message<Payload, Topic> = {
    topic,
    payload,
    key,
    id: newMessageId(),
    contentType: payload instanceof Uint8Array ? 'application/octet-stream' : jsonContentType,
    headers: {},
    attributes: {},
    publishedAt: now,
    receivedAt: now,
    expiresAt: null,
  }
  refuseUnknown('testMessage', given as Message, Object.keys(filled) as (keyof Message)[])
  checkMessage({ topic, payload: null, key }, 4)
  const said = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  return { ...filled, ...said }
}

/** What a test says of a context; the rest is filled in. */
export interface TestContextOptions {
  /** For a handler with a transaction: a client on which you ran BEGIN, and roll back in the end. */
  readonly client?: pg.ClientBase | undefined
  /** From 1 on. @default 1 */
  readonly attempt?: number | undefined
  /** Whose id the `idempotencyKey` names. @default a new id */
  readonly message?: Pick<Message, 'id'> | undefined
  /** @default 'test' */
  readonly consumer?: string | undefined
  /** Rises with every claim. @default 1 */
  readonly fence?: number | undefined
  /** @default one that never aborts */
  readonly signal?: AbortSignal | undefined
}

/**
 * What a handler is told beside its message, as a claimer makes it, for a test that calls the handler itself: with `client`, that of a
 * handler with a transaction, `trx` included. Nothing is begun and nothing ended.
 *
 * @throws OptionError
 */
export async function testContext<Tables = unknown>(
  options: TestContextOptions & { readonly client: pg.ClientBase },
): Promise<TransactionContext<Tables>>
export async function testContext(
  options?: TestContextOptions & { readonly client?: undefined },
): Promise<HandlerContext>
export async function testContext(options: TestContextOptions = {}): Promise<HandlerContext> {
  refuseUnknown('testContext', options, ['client', 'attempt', 'message', 'consumer', 'fence', 'signal'])
  const { client, message, signal } = options
  const attempt = whole('attempt', options.attempt, 1, 1, 10_000)
  const fence = whole('fence', options.fence, 1, 0, Number.MAX_SAFE_INTEGER)
  const claim = claimOf({ id: message?.id ?? newMessageId(), topic: 'test', payload: 'null', attempt, fence })
  const abort = new Abort()
  const pass = (): void => abort.abort(signal!.reason as Error)
  if (signal?.aborted === true) pass()
  else signal?.addEventListener('abort', pass, { once: true })
  const context = contextOf(checkConsumer(options.consumer ?? 'test'), [claim], abort)
  if (client === undefined) return context
  await loadKysely()
  return withTransaction(context, client)
}

/** A message in the hands of a claimer that there is not: nothing of it stands in any table. */
export function claimOf(given: Partial<ClaimedRow> & Pick<ClaimedRow, 'id' | 'topic' | 'attempt'>): Claim {
  const keyed = given.key !== undefined && given.key !== null
  const row: ClaimedRow = {
    ...{ key: null, headers: null, payload: null, body: null, content_type: null },
    ...{ published_at: null, expires_at: null, received_at: new Date(), expires_in_ms: null },
    ...{ lane: 0, seq: 1, fence: 1, crashes: 0 },
    ...given,
    // With a key, the row says the attempts before this one.
    attempt: keyed ? given.attempt - 1 : given.attempt,
  }
  return new Claim(row, '', keyed)
}
