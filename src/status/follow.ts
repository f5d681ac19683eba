import { OptionError } from '../base/errors.ts'
import type { DatabaseInput } from '../database/database.ts'
import { isMessageId } from '../operate/filter.ts'
import type { Standing } from '../operate/content.ts'
import type { Intervention } from '../operate/letter.ts'
import type { FailedAttempt } from '../message/row.ts'
import { explain, inSnapshot } from './explain.ts'
import type { ExplainedPlace, Explanation } from './explanation.ts'
import { madeAt } from './places.ts'

/** Something that happened to a message. */
export type Step = { readonly at: Date; /** Null for the outbox. */ readonly consumer: string | null } & (
  | { readonly what: 'published' | 'received' | 'dead' }
  | { readonly what: 'handled'; readonly attempt: number | null; readonly worker: number | null }
  | { readonly what: 'failed'; readonly attempt: FailedAttempt }
  | { readonly what: 'operator'; readonly intervention: Intervention }
)

/** The whole way of a message, as far as it is kept. */
export interface Followed extends Explanation {
  /** What happened, the first first. */
  readonly steps: readonly Step[]
  /** Where it is: of the first `places`, in their order. */
  readonly standings: readonly Standing[]
}

/**
 * Says why a message is where it is, as `explainMessage` does, and what happened to it until then: when it was published and received,
 * its failed attempts, what operators did, when it was handled. Of one snapshot; the role `twinbox_reader` is enough.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function followMessage(
  input: DatabaseInput,
  id: string,
  options: { readonly schema?: string | undefined; readonly all?: boolean } = {},
): Promise<Followed> {
  if (!isMessageId(id)) throw new OptionError('id', 'id must be the id of a message, a UUID.')
  const { schema, all = false } = options
  return inSnapshot(input, schema, async (snapshot) => {
    const { told, found, facts } = await explain(snapshot, { id: id.toLowerCase(), consumer: null, all })
    const published = madeAt(told.id)
    const received = found.received.map(({ consumer, seen_at: at }): Step => ({
      at,
      consumer,
      what: 'received',
    }))
    const interventions = (await facts.interventions()).flatMap(({ consumer: of, ...intervention }) => {
      const consumer = of === '' ? null : of
      return [
        ...failed(consumer, intervention.errors),
        { at: intervention.at, consumer, what: 'operator' as const, intervention },
      ]
    })
    const placed = told.places.flatMap((place, index) => ofPlace(place, found.rows[index]?.errors ?? []))
    const steps: Step[] = [
      ...(told.known && published !== undefined
        ? [{ at: published, consumer: null, what: 'published' as const }]
        : []),
      ...[...received, ...interventions, ...placed],
    ]
    return {
      ...told,
      steps: steps.toSorted((a, b) => a.at.getTime() - b.at.getTime()),
      standings: found.rows,
    }
  })
}

function ofPlace(
  { consumer, why, since, attempt, worker }: ExplainedPlace,
  errors: readonly FailedAttempt[],
): Step[] {
  const last: Step[] =
    since === null
      ? []
      : why === 'dead'
        ? [{ at: since, consumer, what: 'dead' }]
        : why === 'handled'
          ? [{ at: since, consumer, what: 'handled', attempt, worker: worker?.id ?? null }]
          : []
  return [...failed(consumer, errors), ...last]
}

/** An attempt says as text when it was, and a stranger's row may say anything. */
const failed = (consumer: string | null, errors: readonly FailedAttempt[]): Step[] =>
  errors.flatMap((attempt) => {
    const at = new Date(attempt.at)
    return Number.isNaN(at.getTime()) ? [] : [{ at, consumer, what: 'failed', attempt }]
  })
