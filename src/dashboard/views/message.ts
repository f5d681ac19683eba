import { ms } from '../../base/times.ts'
import { sqlstate } from '../../database/sqlstate.ts'
import { readContent, type MessageContent } from '../../operate/content.ts'
import { followMessage, type Followed, type Step } from '../../status/follow.ts'
import { payloadFor } from '../content.ts'
import { html, none, type Html } from '../html.ts'
import { boxName, keyLink } from '../parts/box.ts'
import { empty } from '../parts/empty.ts'
import { stateBadge, whyBadge } from '../parts/state.ts'
import { time } from '../parts/time.ts'
import type { Context, Shared, View } from '../view.ts'

/** One message's whole way: why it is where it is, and what happened until then. */
export const messageView = ({ database }: Shared): View => ({
  path: '/message',
  title: 'Message',
  async render(context) {
    const id = (context.query.get('id') ?? '').trim()
    const told = await followMessage(database, id, { all: context.query.get('all') === '1' })
    const wanted = context.query.get('content') === '1'
    const standing = told.standings[0]
    const content =
      standing === undefined || !(wanted || context.options.traceUrl !== undefined)
        ? null
        : await readContent(database, told.id, standing).catch((error: unknown) => {
            // A reader may not see it, and sees the rest.
            if (sqlstate(error) === '42501') return 'refused' as const
            throw error
          })
    const shown = content === 'refused' ? null : content
    return html`<p class="id"><code>${told.id}</code></p>
      ${places(context, told)} ${further(context, told)} ${trace(context, shown)}
      <h2>What happened</h2>
      ${steps(told)}
      <h2>Content</h2>
      ${standing === undefined ? html`<p>Nothing is kept of it.</p>` : await contentOf(context, told, wanted, content)}`
  },
})

const places = (context: Context, { id, places: all, at }: Followed): Html =>
  html`<ul class="places">
    ${all.map(
      (place) =>
        html`<li>
          <p class="sentence">${whyBadge(place.why)} ${place.sentence}</p>
          ${
            place.state !== null &&
            html`<dl>
              <dt>State</dt>
              <dd>
                ${stateBadge(place.state)} of ${boxName(place.consumer)} since
                ${time(place.since, at, 'unknown')}
              </dd>
              <dt>Topic</dt>
              <dd>${place.topic}</dd>
              <dt>Key</dt>
              <dd>${keyLink(context, place.consumer, place.key)}</dd>
              ${place.behind !== null && place.behind.id !== null && place.behind.id !== id && behind(context, place.behind.id)}
              ${
                place.expiresAt !== null &&
                html`<dt>Expires</dt>
                  <dd>${time(place.expiresAt, at)}</dd>`
              }
            </dl>`
          }
          ${place.letter !== null && changes(context, place.letter)}
        </li>`,
    )}
  </ul>`

const behind = ({ link }: Context, id: string): Html =>
  html`<dt>Behind</dt>
    <dd><a href="${link('/message', { id })}">${id}</a></dd>`

const changes = ({ link, mayOperate }: Context, letter: number): Html =>
  mayOperate
    ? html`<p class="actions">
        <a class="button" href="${link('/dead/change', { does: 'redrive', number: letter })}">Redrive</a>
        <a class="button" href="${link('/dead/change', { does: 'skip', number: letter })}">Skip</a>
      </p>`
    : none

/** What else can be asked or done about it. */
const further = ({ link, mayOperate }: Context, { id, complete, known }: Followed): Html =>
  html`${
    !complete &&
    html`<p class="fine">
      Not every message that waits was looked at.
      <a href="${link('/message', { id, all: 1 })}">Look at all</a>: with millions waiting that takes seconds.
    </p>`
  }
  ${known && mayOperate && html`<p class="actions"><a class="button" href="${link('/erase', { id })}">Erase or export</a></p>`}`

const traceId = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/

/** Where the trace is of whoever published it. */
function trace({ options: { traceUrl } }: Context, content: MessageContent | null): Html {
  const id = traceId.exec(content?.headers.traceparent ?? '')?.[1]
  if (traceUrl === undefined || id === undefined) return none
  return html`<p>
    <a href="${traceUrl.replaceAll('{traceId}', id)}" rel="noreferrer">See its trace</a> <code>${id}</code>
  </p>`
}

const steps = ({ steps: all, at }: Followed): Html =>
  all.length === 0
    ? empty('Nothing is known of it.', 'Its id may be of another schema, or all that was kept is pruned.')
    : html`<ol class="steps">
        ${all.map(
          (step, index) =>
            html`<li>
              ${time(step.at, at)}
              ${index > 0 && html`<span class="apart">(${ms(step.at.getTime() - all[index - 1]!.at.getTime())} later)</span>`}
              ${tell(step)}
            </li>`,
        )}
      </ol>`

function tell(step: Step): Html {
  const box = boxName(step.consumer)
  switch (step.what) {
    case 'published':
      return html`Published`
    case 'received':
      return html`Received for ${box}`
    case 'dead':
      return html`Became a dead letter of ${box}`
    case 'handled':
      return html`Handled by ${box}, at attempt
      ${step.attempt}${step.worker !== null && html`, by worker ${step.worker}`}`
    case 'failed': {
      const { attempt, worker, error, stack } = step.attempt
      return html`Attempt ${attempt} of ${box} failed${worker !== null && html` on worker ${worker}`}:
        <span class="error">${error}</span>
        ${
          stack !== null &&
          stack !== '' &&
          html`<details>
            <summary>Where</summary>
            <pre>${stack}</pre>
          </details>`
        }`
    }
    case 'operator': {
      const { action, by, login, why } = step.intervention
      const did = { redrive: 'Redriven', skip: 'Skipped', prune: 'Pruned', erase: 'Erased' }[action]
      return html`${did} (${box}) by ${by}, logged in as ${login}${why !== null && html`: ${why}`}`
    }
    default:
      return step satisfies never
  }
}

/** Headers and payload, when asked for and as far as this viewer may see them. */
async function contentOf(
  context: Context,
  told: Followed,
  wanted: boolean,
  content: MessageContent | 'refused' | null,
): Promise<Html> {
  const { id } = told
  if (!wanted)
    return html`<p>
      <a class="button" href="${context.link('/message', { id, content: 1 })}">Show headers and payload</a>
    </p>`
  if (content === 'refused')
    return html`<p>
      The database's role of this dashboard may not see it: with the role twinbox_reader, nobody does.
    </p>`
  if (content === null) return html`<p>Nothing of it is kept where the message is now.</p>`
  const { consumer, topic, key } = told.standings[0]!
  const of = consumer === '' ? null : consumer
  const payload = await payloadFor(context, { ...content, id, topic, key, consumer: of })
  if (payload === null && !context.mayOperate) return html`<p>This dashboard does not show it to you.</p>`
  const headers = Object.entries(content.headers)
  return html`<dl class="headers">
      <dt>Content type</dt>
      <dd>${content.contentType}, ${Buffer.byteLength(content.payload)} bytes</dd>
      ${headers.map(
        ([name, value]) =>
          html`<dt>${name}</dt>
            <dd>${value}</dd>`,
      )}
    </dl>
    ${
      payload === null
        ? html`<p>
            The payload is not shown:
            ${
              context.options.showPayload === undefined
                ? 'this dashboard was given no showPayload'
                : 'showPayload gives none of it to you'
            }.
          </p>`
        : html`<pre class="payload" tabindex="0" aria-label="Payload">${payload}</pre>`
    }`
}
