import { html, type Html } from '../html.ts'
import type { Context, Fields } from '../view.ts'
import { choice, field } from './field.ts'

/** The outbox in a query. No consumer can be called that. */
const outbox = '@outbox'

export const boxName = (consumer: string | null): string => consumer ?? 'outbox'

/** A box in a query: of a consumer, null for the outbox, undefined for all. */
export const boxFields = (consumer: string | null | undefined): Fields => ({
  box: consumer === null ? outbox : consumer,
})

export function readBox(query: URLSearchParams): string | null | undefined {
  const box = query.get('box')
  if (box === null || box === '') return undefined
  return box === outbox ? null : box
}

/** A choice of one box or all, of those that the latest poll has seen. */
export function boxChoice({ poll, query }: Context): Html {
  const chosen = query.get('box') ?? ''
  const known = new Set(['', outbox, ...(poll?.consumers.map(({ consumer }) => consumer) ?? []), chosen])
  return choice(
    'box',
    'Box',
    chosen,
    [...known].map((value) => [value, value === '' ? 'all' : value === outbox ? 'outbox' : value]),
  )
}

/** A line for a consumer, of those that the latest poll has seen or any other. */
export const consumerField = ({ poll, query }: Context): Html =>
  field({
    ...{ name: 'consumer', label: 'Consumer', value: query.get('consumer') },
    offered: poll?.consumers.map(({ consumer }) => consumer),
  })

/** A key as a link to its queue. */
export const keyLink = ({ link }: Context, consumer: string | null, key: string | null): Html =>
  key === null
    ? html`<span class="missing">none</span>`
    : html`<a class="key" href="${link('/key', { ...boxFields(consumer), key })}">${key}</a>`

/** A message's id as a link to its way. */
export const messageLink = ({ link }: Context, id: string): Html =>
  html`<a class="id" href="${link('/message', { id })}"><code>${id}</code></a>`
