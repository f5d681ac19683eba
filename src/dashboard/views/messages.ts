import { messageStates, type MessageState } from '../../database/sql/placed.ts'
import {
  findDedupeKey,
  lookDefault,
  searchMessages,
  type FoundMessage,
  type SearchResult,
} from '../../operate/search.ts'
import { html, none, type Html } from '../html.ts'
import { boxChoice, boxName, keyLink, messageLink, readBox } from '../parts/box.ts'
import { number } from '../parts/count.ts'
import { empty } from '../parts/empty.ts'
import { asking, choice, field, given } from '../parts/field.ts'
import { stateBadge } from '../parts/state.ts'
import { table } from '../parts/table.ts'
import { time } from '../parts/time.ts'
import type { Context, Shared, View } from '../view.ts'

/** Most rows of each table that a page looks at, when it is asked to look further. */
const lookMax = 1_000_000

/** Messages by what people know of them. */
export const messagesView = ({ database }: Shared): View => ({
  path: '/messages',
  title: 'Messages',
  nav: 'Messages',
  async render(context) {
    const { query } = context
    const dedupeKey = given(query, 'dedupe')
    const found =
      dedupeKey === undefined
        ? results(
            context,
            await searchMessages(database, searchOf(query), { limit: 50, look: lookOf(query) }),
          )
        : byDedupeKey(context, await findDedupeKey(database, { dedupeKey, topic: given(query, 'topic') }))
    return html`${asking(context, '/message', [field({ name: 'id', label: 'Id', required: true })], 'Find by id')}
    ${asking(
      context,
      '/messages',
      [
        boxChoice(context),
        choice('state', 'State', query.get('state') ?? '', [
          ['', 'any'],
          ...messageStates.map((state): [string, string] => [state, state]),
        ]),
        ...['topic', 'key', 'error'].map((name) =>
          field({
            name,
            label: { topic: 'Topic', key: 'Key', error: 'Error contains' }[name]!,
            value: query.get(name),
          }),
        ),
        field({ name: 'dedupe', label: 'Dedupe key', value: dedupeKey }),
      ],
      'Search',
    )}
    ${found}`
  },
})

const searchOf = (query: URLSearchParams) => {
  const state = given(query, 'state')
  return {
    ...(state === undefined ? {} : { states: [state as MessageState] }),
    consumer: readBox(query),
    ...{ topic: given(query, 'topic'), key: given(query, 'key'), error: given(query, 'error') },
  }
}

const lookOf = (query: URLSearchParams): number => {
  const look = Number(query.get('look') ?? lookDefault)
  return Number.isSafeInteger(look) && look > 0 ? Math.min(look, lookMax) : lookDefault
}

function results(context: Context, { messages, beyond, consumersLeft }: SearchResult): Html {
  const asked = ['box', 'state', 'topic', 'key', 'error'].some((name) => given(context.query, name))
  return html`${messageTable(context, 'Messages found, those of each state the oldest first', messages, { asked })}
  ${notLooked(context, beyond)}
  ${consumersLeft > 0 && html`<p class="fine">The inboxes of ${number(consumersLeft)} more consumers were not looked at: choose a box.</p>`}`
}

export const messageTable = (
  context: Context,
  caption: string,
  messages: readonly FoundMessage[],
  { asked = true, ofKey = false }: { readonly asked?: boolean; readonly ofKey?: boolean } = {},
): Html =>
  table(
    caption,
    [
      { head: 'State', cell: ({ state, worker }) => stateBadge(state, state === 'inbox' && worker !== null) },
      ...(ofKey ? [] : [{ head: 'Box', cell: ({ consumer }: FoundMessage) => boxName(consumer) }]),
      { head: 'Id', cell: ({ id }) => messageLink(context, id) },
      { head: 'Topic', cell: ({ topic }) => topic },
      ...(ofKey
        ? []
        : [{ head: 'Key', cell: ({ consumer, key }: FoundMessage) => keyLink(context, consumer, key) }]),
      { head: 'Since', cell: ({ since }) => time(since, context.now, 'unknown') },
      { head: 'Attempts', number: true, cell: ({ attempt }) => attempt },
      { head: 'Waits for', cell: (message) => waitsFor(context, message) },
    ],
    messages,
    empty(
      asked ? 'Nothing was found.' : 'No message is here.',
      asked
        ? 'What was sent, and received nowhere in this schema, is not kept; nor is what was handled, unless its claimer has keepHandledMs.'
        : 'What outbox.publish() writes stands here until a claimer has handled it.',
    ),
  )

function waitsFor(context: Context, { dueAt, worker, error, reason }: FoundMessage): Html {
  const why = error?.error ?? reason
  return html`${dueAt !== null && html`${time(dueAt, context.now)} `}
  ${worker !== null && html`worker ${worker} `}
  ${why !== null && html`<span class="error">${why.slice(0, 200)}</span>`}`
}

/** Where there was more than was looked at: that nothing was found there means little. */
function notLooked(context: Context, beyond: SearchResult['beyond']): Html {
  if (beyond.length === 0) return none
  const parts = beyond.map(
    ({ state, lookedAt }) =>
      html`<li>
        ${state}:
        ${lookedAt === null ? 'took longer than 2 s, and was given up on' : `of more, ${number(lookedAt)} were looked at`}
      </li>`,
  )
  const look = lookOf(context.query)
  const further = { ...Object.fromEntries(context.query), look: Math.min(look * 10, lookMax), flash: null }
  return html`<section class="note">
    <h2>Not all was looked at</h2>
    <ul>
      ${parts}
    </ul>
    ${
      look < lookMax &&
      html`<p>
        <a href="${context.link('/messages', further)}">Look ten times as far</a>, or narrow the search: a key
        is looked up in its own lane.
      </p>`
    }
  </section>`
}

function byDedupeKey(context: Context, { messages, more }: Awaited<ReturnType<typeof findDedupeKey>>): Html {
  return html`${table(
    'Messages that were published with this dedupe key',
    [
      { head: 'Id', cell: ({ id }) => messageLink(context, id) },
      { head: 'Topic', cell: ({ topic }) => topic },
    ],
    messages,
    empty('Nothing was found.', 'A dedupe key is known for as long as its window lasts.'),
  )}
  ${more && html`<p class="fine">There are more topics than were looked at: name the topic.</p>`}`
}
