import { InvalidPayloadError } from '../base/errors.ts'
import { isThenable, readReceived, versionHeader, type Reading } from '../topics/reading.ts'
import type { TopicDefinition, Topics } from '../topics/topics.ts'
import type { Claim } from './claim.ts'
import type { Settlement } from './settlement.ts'
import type { FailureOptions } from './verdict.ts'

/**
 * Payloads as their topics define them, before a handler sees them. What does not fit becomes a dead letter at once: it would never
 * fit, and neither its handler nor what that needs has failed.
 */
export class Payloads {
  readonly #topics: Topics
  readonly #settlement: Pick<Settlement, 'fail'>
  /** Those whose schema has to be waited for. */
  readonly #awaited = new Set<TopicDefinition>()

  constructor(topics: Topics, settlement: Pick<Settlement, 'fail'>) {
    this.#topics = topics
    this.#settlement = settlement
  }

  /** Reads it, if that takes no wait and it fits. Otherwise `read` says what becomes of it. */
  fitsAtOnce(claim: Claim): boolean {
    const definition = this.#topics.definitions.get(claim.topic)!
    if (this.#awaited.has(definition)) return false
    try {
      const reading = this.#begin(claim, definition)
      if (isThenable(reading)) {
        this.#awaited.add(definition)
        reading.then(undefined, () => {})
        return false
      }
      if (reading.wrong !== undefined) return false
      claim.read = reading
      return true
    } catch {
      return false
    }
  }

  /** Reads what is being handled, and buries what does not fit. Not null: what a schema has thrown, as a handler may. */
  async read(
    taken: readonly Claim[],
    options: FailureOptions,
  ): Promise<{ readonly claims: readonly Claim[]; readonly error: unknown } | null> {
    const claims = taken.filter(({ state }) => state === 'handling')
    const misfits = new Map<Claim, InvalidPayloadError>()
    try {
      await Promise.all(
        claims.map(async (claim) => {
          const definition = this.#topics.definitions.get(claim.topic)
          // It has no handler either.
          if (definition === undefined) return
          const reading = await this.#begin(claim, definition)
          if (reading.wrong === undefined) claim.read = reading
          else misfits.set(claim, new InvalidPayloadError(reading.path, reading.wrong))
        }),
      )
    } catch (error) {
      return { claims, error }
    }
    for (const [claim, error] of misfits) {
      if (claim.state === 'handling') await this.#settlement.fail(claim, error, options, 'schema')
    }
    return null
  }

  #begin(claim: Claim, definition: TopicDefinition): Reading | Promise<Reading> {
    return readReceived(claim.topic, definition, claim.payload, claim.said(versionHeader))
  }
}
