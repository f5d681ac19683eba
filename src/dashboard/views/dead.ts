import { readDeadLetters } from '../../operate/dead.ts'
import { groupDeadLetters, type DeadLetterGroup } from '../../operate/groups.ts'
import type { DeadLetter } from '../../operate/letter.ts'
import { html, type Html } from '../html.ts'
import { letterFields, readLetterFilter } from '../letters.ts'
import { boxChoice, boxFields, boxName, keyLink, messageLink, readBox } from '../parts/box.ts'
import { number } from '../parts/count.ts'
import { empty } from '../parts/empty.ts'
import { asking, field } from '../parts/field.ts'
import { table } from '../parts/table.ts'
import { time } from '../parts/time.ts'
import type { Context, Fields, Shared, View } from '../view.ts'

/** A page looks at so many letters for those that match, and no further: the next page goes on. */
const lookMax = 20_000

const noLetters = empty(
  'There are no dead letters.',
  'A message becomes one when its handler throws DeadLetterError, or has failed maxAttempts times.',
)

/** What failed for good, by what it failed of; and one by one. */
export const deadViews = ({ database }: Shared): readonly View[] => [
  {
    path: '/dead',
    title: 'Dead letters',
    nav: 'Dead letters',
    async render(context) {
      const found = await groupDeadLetters(database, { consumer: readBox(context.query) })
      return html`${asking(context, '/dead', [boxChoice(context)], 'Show')}
      ${table('Dead letters by what they failed of, the most first', groupColumns(context), found.groups, noLetters)}
      ${found.others > 0 && html`<p class="fine">${number(found.others)} more groups are not shown: choose a box.</p>`}
      ${found.more && html`<p class="fine">Of more dead letters, these are the latest ${number(found.lookedAt)}.</p>`}
      ${found.lookedAt > 0 && html`<p class="actions"><a class="button" href="${context.link('/dead/list', boxFields(readBox(context.query)))}">See them one by one</a></p>`}`
    },
  },
  {
    path: '/dead/list',
    title: 'Dead letters, one by one',
    async render(context) {
      const { query, link, mayOperate } = context
      const filter = readLetterFilter(query)
      const after = query.get('after') ?? undefined
      const { letters, next } = await readDeadLetters(database, filter, { after, lookMax })
      const fields = letterFields(filter)
      return html`${asking(
          context,
          '/dead/list',
          [
            boxChoice(context),
            ...[
              ['topic', 'Topic'],
              ['key', 'Key'],
              ['class', 'Error class'],
              ['error', 'Reason contains'],
            ].map(([name, label]) => field({ name: name!, label: label!, value: query.get(name!) })),
          ],
          'Show',
        )}
        ${mayOperate && letters.length > 0 && forAll(context, fields)}
        <form
          class="picking"
          method="get"
          action="${link('/dead/change')}"
          aria-label="Those that are picked"
        >
          ${table(
            'Dead letters, the latest first',
            letterColumns(context),
            letters,
            next === null
              ? noLetters
              : html`<p class="fine">None of the ${number(lookMax)} that were looked at matches.</p>`,
          )}
          ${
            mayOperate &&
            letters.length > 0 &&
            html`<p class="actions">
              <button name="does" value="redrive">Redrive those picked</button>
              <button name="does" value="skip">Skip those picked</button>
            </p>`
          }
        </form>
        ${next !== null && html`<p class="pages"><a rel="next" href="${link('/dead/list', { ...fields, after: next })}">Further ones</a></p>`}`
    },
  },
]

/** What can be done with all that match, wherever the page ends. */
const forAll = ({ link }: Context, fields: Fields): Html =>
  html`<p class="actions">
    <a class="button" href="${link('/dead/change', { does: 'redrive', ...fields })}"
      >Redrive all that match</a
    >
    <a class="button" href="${link('/dead/change', { does: 'skip', ...fields })}"
      >Skip or export all that match</a
    >
  </p>`

const groupColumns = (context: Context) => [
  { head: 'Box', cell: ({ consumer }: DeadLetterGroup) => boxName(consumer) },
  { head: 'Topic', cell: ({ topic }: DeadLetterGroup) => topic },
  {
    head: 'Failed of',
    cell: ({ errorClass, reason }: DeadLetterGroup) =>
      html`<strong>${errorClass.slice(0, 100)}</strong> <span class="error">${reason.slice(0, 200)}</span>`,
  },
  { head: 'Count', number: true, cell: ({ count }: DeadLetterGroup) => number(count) },
  { head: 'Latest', cell: ({ latest }: DeadLetterGroup) => time(latest, context.now) },
  { head: 'Oldest', cell: ({ oldest }: DeadLetterGroup) => time(oldest, context.now) },
  { head: 'Act', cell: (group: DeadLetterGroup) => groupActions(context, group) },
]

function groupActions({ link, mayOperate }: Context, { consumer, topic, errorClass }: DeadLetterGroup): Html {
  // Of a reason that begins with a colon, or is one long word, there is no class that a filter could name.
  const isNamed = errorClass !== '' && errorClass.length <= 1000
  const fields = letterFields({ consumer, topic, errorClass: isNamed ? errorClass : undefined })
  return html`<span class="actions">
    <a href="${link('/dead/list', fields)}">See</a>
    ${
      mayOperate &&
      isNamed &&
      html`<a href="${link('/dead/change', { does: 'redrive', ...fields })}">Redrive</a>
        <a href="${link('/dead/change', { does: 'skip', ...fields })}">Skip</a>`
    }
  </span>`
}

const letterColumns = (context: Context) => [
  {
    head: 'Pick',
    cell: ({ number: each }: DeadLetter) =>
      html`<input type="checkbox" name="number" value="${each}" aria-label="Dead letter ${each}" />`,
  },
  { head: 'Number', number: true, cell: ({ number: each }: DeadLetter) => each },
  { head: 'Died', cell: ({ diedAt }: DeadLetter) => time(diedAt, context.now) },
  { head: 'Box', cell: ({ consumer }: DeadLetter) => boxName(consumer) },
  { head: 'Topic', cell: ({ topic }: DeadLetter) => topic },
  { head: 'Key', cell: ({ consumer, key }: DeadLetter) => keyLink(context, consumer, key) },
  { head: 'Attempts', number: true, cell: ({ attempt }: DeadLetter) => attempt },
  {
    head: 'Reason',
    cell: ({ reason }: DeadLetter) => html`<span class="error">${reason.slice(0, 300)}</span>`,
  },
  { head: 'Message', cell: ({ id }: DeadLetter) => messageLink(context, id) },
]
