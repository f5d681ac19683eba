import { realWebhooks, webhookLibrary } from '../../proof/soak/webhooks.ts'
import type { Task } from './entrant.ts'

export const topic = 'bench.message'
const usualKeys = 10_000

/** A message of a race. Its number is in its payload, so that it can be told what became of it. */
export interface RaceMessage {
  readonly n: number
  readonly key: string | null
  readonly payload: { readonly n: number }
}

/** 215 bytes of JSON, whatever the number. */
function small(n: number): { n: number } {
  const order = {
    n,
    order: `order-${n}`,
    customer: { name: 'Ada Lovelace', city: 'London', country: 'GB' },
    items: [{ sku: 'A-1001', quantity: 2, price: 1295 }],
    note: '',
  }
  const missing = 215 - JSON.stringify(order).length
  return Object.assign(order, { note: 'x'.repeat(Math.max(0, missing)) })
}

let webhooks: object[] | undefined

function github(n: number): { n: number } {
  // Figures compare only if all runs had the same payloads.
  webhooks ??= realWebhooks()?.map(({ payload }) => payload)
  if (webhooks === undefined) throw new Error(`${webhookLibrary} is not installed.`)
  return { n, ...webhooks[n % webhooks.length] }
}

/** A fixed scramble, so that neighbours do not share a key. */
function keyOf(n: number, kind: Task['keys'], count: number): string | null {
  if (kind === 'none') return null
  if (kind === 'hot' && n % 10 !== 0) return 'hot'
  return `key-${(Math.imul(n, 2_654_435_761) >>> 0) % count}`
}

export const message = (
  n: number,
  { payload, keys, keyCount = usualKeys }: Pick<Task, 'payload' | 'keys' | 'keyCount'>,
): RaceMessage => ({
  n,
  key: keyOf(n, keys, keyCount),
  payload: payload === 'small' ? small(n) : github(n),
})

/** The messages in portions, made when they are asked for. */
export function* portions(task: Task, size = 1000, from = 0, to = task.messages): Generator<RaceMessage[]> {
  for (let first = from; first < to; first += size) {
    yield Array.from({ length: Math.min(size, to - first) }, (_, index) => message(first + index, task))
  }
}

/** The number that stands at the head of a payload's text: reading it costs the same for everybody. */
export const numberOf = (text: string): number => Number.parseInt(text.slice(5, 16).trimStart(), 10)

/** The part of one process. */
export function share(task: Task, process: number): { readonly from: number; readonly to: number } {
  return {
    from: Math.floor((task.messages * process) / task.processes),
    to: Math.floor((task.messages * (process + 1)) / task.processes),
  }
}
