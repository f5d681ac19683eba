import { realWebhooks, webhookLibrary } from '../../proof/soak/webhooks.ts'
import { randomBytes } from 'node:crypto'
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

const mebibyte = 1024 * 1024
let noise: string | undefined

/** Every other one can be packed to a hundredth on disk, as most JSON can; the others to nothing less. */
function large(n: number): { n: number } {
  noise ??= randomBytes(mebibyte / 2).toString('hex')
  return Object.assign({ n }, { text: n % 2 === 0 ? 'x'.repeat(mebibyte) : noise })
}

/** What is published: of bytes, the first four are the number. */
export function contentOf({ n, payload }: RaceMessage, { payload: kind }: Task): object | Uint8Array {
  if (kind !== 'large bytes') return payload
  const bytes = Buffer.alloc(mebibyte, (payload as { text?: string }).text ?? '')
  bytes.writeInt32BE(n)
  return bytes
}

/** The number of what a handler gets. */
export const numberIn = (payload: unknown): number =>
  payload instanceof Uint8Array
    ? new DataView(payload.buffer, payload.byteOffset).getInt32(0)
    : (payload as { n: number }).n

const makers = { small, github, large, 'large bytes': large } as const

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
  payload: makers[payload](n),
})

/** The messages in portions, made when they are asked for. */
export function* portions(
  task: Task,
  size = usualPortion(task),
  from = 0,
  to = task.messages,
): Generator<RaceMessage[]> {
  for (let first = from; first < to; first += size) {
    yield Array.from({ length: Math.min(size, to - first) }, (_, index) => message(first + index, task))
  }
}

const usualPortion = ({ payload }: Task): number => (payload.startsWith('large') ? 8 : 1000)

/** The number that stands at the head of a payload's text: reading it costs the same for everybody. */
export const numberOf = (content: string | Uint8Array): number =>
  typeof content === 'string' ? Number.parseInt(content.slice(5, 16).trimStart(), 10) : numberIn(content)

/** The part of one process. */
export function share(task: Task, process: number): { readonly from: number; readonly to: number } {
  return {
    from: Math.floor((task.messages * process) / task.processes),
    to: Math.floor((task.messages * (process + 1)) / task.processes),
  }
}
