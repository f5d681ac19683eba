import { OptionError } from '../../base/errors.ts'
import { html, none, type Html } from '../html.ts'
import type { Context, Fields } from '../view.ts'
import { number } from './count.ts'
import { field, given } from './field.ts'

/** How many a dry run has counted. */
export interface Counted {
  readonly count: number
  /** Whether it was ended before its end. */
  readonly more: boolean
}

/** A dry run may take so long: then at least so many were counted. */
const countMs = 5000

/** Counts with a dry run, for no longer than a page may take to load. */
export async function counted(dry: (signal: AbortSignal) => Promise<number>): Promise<Counted> {
  const signal = AbortSignal.timeout(countMs)
  const found = await dry(signal)
  return { count: found, more: signal.aborted }
}

export const countWords = ({ count, more }: Counted, one: string, several: string): string =>
  `${more ? 'at least ' : ''}${number(count)} ${count === 1 && !more ? one : several}`

/** As fast as a page suggests: what is redriven is handled again, by the same workers as everything else. */
const rateSuggested = 500

/** The fields of a form that changes something: the audit keeps why. */
const reasoned = (button: string, does: 'go' | 'danger', more: readonly Html[] = []): Html =>
  html`<fieldset class="change">
    <legend>${button}</legend>
    ${field({ name: 'reason', label: 'Why, for those who ask later', required: true })} ${more}
    <button class="${does}">${button}</button>
  </fieldset>`

/** The whole form of a page that changes one thing, for those who may; for others a word instead. `back` leads to where the thing is listed. */
export const changeOne = (
  { mayOperate, form }: Context,
  {
    action,
    fields,
    button,
    does,
    back,
  }: {
    readonly action: string
    readonly fields: Fields
    readonly button: string
    readonly does: 'go' | 'danger'
    readonly back: Html
  },
): Html =>
  mayOperate
    ? html`${form(action, fields, reasoned(button, does))}
        <p>${back}.</p>`
    : html`<p class="fine">You may read, and not operate. ${back}.</p>`

/** @throws OptionError: nothing was changed */
export function readReason(form: URLSearchParams): string {
  const reason = given(form, 'reason')?.trim() ?? ''
  if (reason === '')
    throw new OptionError('reason', 'A reason is required, for those who ask later. Nothing was changed.')
  return reason
}

/**
 * A form that changes many: what it is done to, counted before; why; how fast. What cannot be undone has to be said to be meant.
 */
export function changeForm(
  context: Context,
  change: {
    readonly action: string
    readonly fields: Fields
    readonly found: Counted
    readonly button: string
    /** What is lost for good. */
    readonly loses?: string | undefined
    readonly hasRate: boolean
  },
): Html {
  const { action, fields, found, button, loses, hasRate } = change
  if (!context.mayOperate)
    return html`<p>You may read and not operate: who may operate finds a form here.</p>`
  return context.form(
    action,
    { ...fields, expected: found.count, more: found.more ? 1 : null },
    reasoned(button, loses === undefined ? 'go' : 'danger', [
      hasRate
        ? field({
            ...{ name: 'rate', label: 'At most so many a second', type: 'number' as const },
            ...{ value: rateSuggested, least: 1 },
          })
        : none,
      loses === undefined
        ? none
        : html`<label class="sure"
            ><input type="checkbox" name="sure" value="1" required /> ${loses} That cannot be undone, and is
            meant.</label
          >`,
    ]),
  )
}

/** What such a form says, for the functions that do it. */
export interface Change {
  readonly by: string
  readonly reason: string
  readonly perSecond: number | undefined
  /** Of the dry run; null if it did not count to the end. */
  readonly expected: number | null
}

/** @throws OptionError: nothing was changed */
export function readChange(form: URLSearchParams, { viewer }: Context, isLost: boolean): Change {
  const reason = readReason(form)
  if (isLost && form.get('sure') !== '1')
    throw new OptionError('sure', 'It has to be said that this is meant. Nothing was changed.')
  const rate = given(form, 'rate')
  if (rate !== undefined && !/^[1-9]\d{0,8}$/.test(rate))
    throw new OptionError('rate', 'The rate must be a whole number from 1 on. Nothing was changed.')
  const expected = Number(form.get('expected') ?? Number.NaN)
  return {
    ...{ by: viewer.name, reason, perSecond: rate === undefined ? undefined : Number(rate) },
    expected: Number.isSafeInteger(expected) && expected >= 0 && form.get('more') !== '1' ? expected : null,
  }
}
