import { printableLine } from '../base/printable.ts'
import { ms } from '../base/times.ts'
import { boxOf } from './box.ts'
import type { Evidence, ExplainedWorker } from './explanation.ts'
import { tellPaused } from './paused.ts'
import { attempts, brief, lifeOf, moment, named, quoted } from './words.ts'

/** In lists, so many are named. */
const namedMax = 3

/** The evidence in one sentence, as of `now`. The one place that words it, so that the same evidence is the same sentence. */
export function tell(evidence: Evidence, now: Date, complete: boolean): string {
  const telling = new Telling(evidence, now)
  const told = printableLine(telling.told())
  return complete || (evidence.why !== 'unknown' && evidence.why !== 'gone')
    ? `${told}.`
    : `${told}; or it waits behind the first of each lane, and only those were looked at.`
}

class Telling {
  readonly #evidence: Evidence
  readonly #now: Date

  constructor(evidence: Evidence, now: Date) {
    this.#evidence = evidence
    this.#now = now
  }

  told(): string {
    const { why, until, key, worker, behind, topic, workers, paused } = this.#evidence
    const { box, worker: kind, command } = this.#box()
    switch (why) {
      case 'delayed':
        return `Is delayed until ${this.#at(until)} by whoever published it${this.#then()}`
      case 'retry':
        return `${this.#failed()} and is tried again ${
          until === null ? 'when an operator says so' : `at ${this.#at(until)}`
        }${this.#evidence.state === 'parked' ? `, until when its key ${quoted(key)} is parked` : ''}${this.#then()}`
      case 'put_off':
        return `Is put off until ${this.#at(until)} without an attempt, since ${this.#paused()}${this.#then()}`
      case 'behind_parked': {
        const letter = behind!.letter === null ? '' : `dead letter ${behind!.letter}, `
        const ends = until === null ? 'until an operator redrives or skips it' : `until ${this.#at(until)}`
        return `Waits behind ${letter}${behind!.id ?? 'an earlier message'} of its key ${quoted(key)}, which is parked ${ends}${this.#after(behind!)}${this.#then()}`
      }
      case 'behind':
        return `${this.#waits()}: behind ${behind!.id}${this.#others()} of its key ${quoted(key)}${
          behind!.inFlight ? ', which is in flight' : ''
        }${this.#then()}`
      case 'in_flight':
        return `Is handled for ${quoted(this.#evidence.consumer)} now, or next, by ${this.#worker(worker!)}: ${this.#attempt()}${this.#stuck(worker!)}`
      case 'paused':
        return `${this.#waits()}: ${this.#paused()}; one message at a time tries, the next at ${this.#at(paused!.probeAt)}${this.#then()}`
      case 'no_worker':
        return `${this.#waits()}: no ${kind} is running${this.#last()}; start one with "${command}"`
      case 'no_handler':
        return `${this.#waits()}: ${
          workers === 1 ? `the only living ${kind} has no` : `none of the ${workers} living ${kind}s has a`
        } handler for ${topic}`
      case 'dead_holder':
        return `${this.#waits()}${this.#then()}`
      case 'below':
        return `${this.#waits()}: its lane is read from behind it, since a sequence has gone back; a ${kind} finds it when it starts, or within some minutes${this.#then()}`
      case 'broker_down':
        return `${this.#waits()}: the broker is out of reach since ${this.#at(worker!.brokerDownSince)} (${brief(worker!.brokerError)})${this.#then()}`
      case 'free':
        return worker === null
          ? `${this.#waits()}${this.#queue()}${this.#then()}`
          : `${this.#waits()}: ${this.#worker(worker)}, has a handler for ${topic} and is to take it`
      case 'queued':
        return `${this.#waits()}${this.#queue()}${this.#then()}`
      case 'dead':
        return `Is dead letter ${this.#evidence.letter} of ${box} since ${this.#at(this.#evidence.since)}, after ${attempts(this.#evidence.attempt)}: ${brief(this.#evidence.error)}${
          behind === null ? '' : `; its key ${quoted(key)} is parked behind it`
        }${this.#intervened()}`
      case 'handled':
        return `Was handled by ${quoted(this.#evidence.consumer)} at ${this.#at(this.#evidence.since)}${
          worker === null ? '' : `, by ${named(worker)}`
        }, at attempt ${this.#evidence.attempt}${this.#intervened()}`
      case 'gone':
        return `Was received by ${quoted(this.#evidence.consumer)} at ${this.#at(this.#evidence.since)} and does not wait there any more: it was handled, and no history of that is kept (keepHandledMs)`
      case 'removed':
        return `Waits in ${box} no more${this.#intervened()}`
      case 'unknown':
        return this.#unknown()
      default:
        return why satisfies never
    }
  }

  #box() {
    return boxOf(this.#evidence.consumer ?? '')
  }

  #at(time: Date | null): string {
    return moment(time, this.#now)
  }

  #waits(): string {
    const { since, expiresAt, attempt, error } = this.#evidence
    const expired =
      expiresAt !== null && expiresAt <= this.#now
        ? `, has expired at ${this.#at(expiresAt)} and becomes a dead letter as soon as it is read`
        : ''
    const failed =
      attempt === 0 || error === null ? '' : ` with ${attempts(attempt)} behind it (${brief(error)})`
    return `Waits in ${this.#box().box} since ${this.#at(since)}${failed}${expired}`
  }

  #failed(): string {
    const { attempt, error } = this.#evidence
    if (attempt === 0) return error === null ? 'Waits' : `Waits, without a counted attempt (${brief(error)}),`
    return `Failed at attempt ${attempt}${error === null ? '' : ` (${brief(error)})`}`
  }

  #after({ attempt, error }: { readonly attempt: number | null; readonly error: string | null }): string {
    const why = error === null ? '' : ` (${brief(error)})`
    return attempt === null || attempt === 0 ? why : ` after attempt ${attempt}${why}`
  }

  #attempt(): string {
    const { attempt, error } = this.#evidence
    return `attempt ${attempt}${error === null ? '' : `, the one before failed with ${brief(error)}`}`
  }

  #others(): string {
    const { key, more } = this.#evidence.ahead!
    if (key <= 1) return ''
    return ` and ${more ? 'at least ' : ''}${key - 1} ${key === 2 ? 'other' : 'others'}`
  }

  #queue(): string {
    const { lane, more } = this.#evidence.ahead!
    const where = this.#lane()
    if (lane === 0) return `: the first of ${where}`
    return `: behind ${more ? 'at least ' : ''}${lane} earlier ${lane === 1 ? 'message' : 'messages'} of ${where}`
  }

  #lane(): string {
    return `lane ${this.#evidence.lane}`
  }

  #paused(): string {
    const { consumer, paused } = this.#evidence
    const error = paused!.error === '' || paused!.error === paused!.reason ? '' : ` (${brief(paused!.error)})`
    return `${quoted(consumer)} ${tellPaused(paused!)} UTC${error}, ${paused!.probes} ${paused!.probes === 1 ? 'try' : 'tries'} since`
  }

  /** Who is to go on with it. */
  #then(): string {
    const { worker, workers, lane, state, unwanted } = this.#evidence
    const { worker: kind } = this.#box()
    const wish = unwanted ? `; no consumer here is subscribed to ${this.#evidence.topic}` : ''
    if (worker !== null) {
      const holds = worker.laneSince === null ? 'in flight at' : `${this.#lane()} is held by`
      return `; ${holds} ${this.#worker(worker)}${this.#lapses(worker)}${wish}`
    }
    if (workers === 0) return `; no ${kind} is running${wish}`
    const free =
      lane !== null && state !== 'unhandled' && this.#evidence.why === 'free' && this.#evidence.ahead !== null
    const living = `${workers} ${kind}${workers === 1 ? ' is' : 's are'} running`
    return `; ${free ? `nobody holds it, and ${living}` : living}${wish}`
  }

  /** When others may take it, of a worker that does not live. */
  #lapses({ state, leaseUntil }: ExplainedWorker): string {
    if (state === 'alive' || leaseUntil === null) return ''
    return `; others may take it when they find that out, and at ${this.#at(leaseUntil)} at the latest`
  }

  #worker(worker: ExplainedWorker): string {
    return `${named(worker)}, ${lifeOf(worker, this.#now)}`
  }

  #last(): string {
    const { worker } = this.#evidence
    return worker === null ? '' : `, the last one was ${this.#worker(worker)}`
  }

  #stuck({ stuckSince }: ExplainedWorker): string {
    if (stuckSince === null) return ''
    return `; a handler of ${this.#evidence.topic} has not ended there for ${ms(this.#now.getTime() - stuckSince.getTime())}`
  }

  #intervened(): string {
    const { intervention } = this.#evidence
    if (intervention === null) return ''
    const { action, at, by, login, why, attempt, reason } = intervention
    const what = { redrive: 'redriven', skip: 'skipped', prune: 'pruned', erase: 'erased' }[action]
    const was =
      attempt === null ? '' : `, after ${attempts(attempt)}${reason === null ? '' : ` (${brief(reason)})`}`
    return `; ${what} at ${this.#at(at)} by ${by}, logged in as ${login}${why === null ? '' : ` (${brief(why)})`}${was}`
  }

  #unknown(): string {
    const { transactions } = this.#evidence
    const some = transactions
      .slice(0, namedMax)
      .map(
        ({ pid, application, user, since }) =>
          `${pid} (${application === '' ? user : application}${since === null ? '' : `, since ${this.#at(since)}`})`,
      )
      .join(', ')
    const rest = transactions.length > namedMax ? ` and ${transactions.length - namedMax} more` : ''
    const open =
      some === '' ? '' : `; transactions that write to the outbox and have not ended: process ${some}${rest}`
    return `Nothing is known of it: it was not committed, or was sent and received by no consumer here, or all that was kept of it has been pruned${open}`
  }
}
