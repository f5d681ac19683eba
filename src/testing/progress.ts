import type { Broker } from '../brokers/broker.ts'
import type { AnyConsumerConfig } from '../config.ts'
import type { Database } from '../database/database.ts'
import { testingSql, type LeftRow } from '../database/sql/testing.ts'
import { describeError } from '../base/errors.ts'
import type { TwinboxEvent } from '../base/events.ts'
import { takes } from '../message/message.ts'

/** An attempt that has failed. */
export interface FailedHandling {
  readonly id: string
  readonly topic: string
  /** Null if the broker has refused it. */
  readonly consumer: string | null
  readonly attempt: number
  readonly error: unknown
  /** Null if it is a dead letter. */
  readonly retryInMs: number | null
}

interface Consumer {
  readonly name: string
  readonly config: AnyConsumerConfig
}

/** What has happened while messages are settled, and what is still under way. */
export class Progress {
  readonly #consumers: readonly Consumer[]
  handled = 0
  readonly failed: FailedHandling[] = []
  readonly troubles: string[] = []
  /** Messages whose attempt has failed, with the pause before their next. */
  readonly #pauses = new Map<
    string,
    { readonly consumer: string; readonly id: string; readonly ms: number }
  >()
  /** Topics of what the broker was given, by id. */
  readonly #sent = new Map<string, string>()
  #wake: () => void = () => {}

  constructor(consumers: readonly Consumer[]) {
    this.#consumers = consumers
  }

  /** How many messages a broker was given. */
  get sent(): number {
    return this.#sent.size
  }

  /** The broker, of which is remembered what it is given: until an inbox has it, it is nowhere else to be found. */
  watch(broker: Broker): Broker {
    const send: Broker['send'] = (batch, context) => {
      for (const { id, topic } of batch) this.#sent.set(id, topic)
      return broker.send(batch, context)
    }
    // Of a class of its own, perhaps, with private fields.
    return new Proxy(broker, {
      get: (target, name) => {
        if (name === 'send') return send
        const value: unknown = Reflect.get(target, name, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
  }

  /** What the broker was given, for each consumer that takes it. */
  underWay(): { consumers: string[]; ids: string[]; topics: string[] } {
    const all = [...this.#sent].flatMap(([id, topic]) =>
      this.takers(topic).map(({ name }) => ({ consumer: name, id, topic })),
    )
    return {
      consumers: all.map(({ consumer }) => consumer),
      ids: all.map(({ id }) => id),
      topics: all.map(({ topic }) => topic),
    }
  }

  takers(topic: string): readonly Consumer[] {
    return this.#consumers.filter(({ config }) => takes(config.from ?? config.topics, topic))
  }

  /** How many of each topic were sent that none of these consumers takes, nor any of these others. */
  unsubscribed(others: readonly string[]): { topic: string; count: number }[] {
    const counts = new Map<string, number>()
    for (const topic of this.#sent.values()) {
      if (this.takers(topic).length > 0 || takes(others, topic)) continue
      counts.set(topic, (counts.get(topic) ?? 0) + 1)
    }
    return [...counts].map(([topic, count]) => ({ topic, count }))
  }

  isOurs(consumer: string): boolean {
    return this.#consumers.some(({ name }) => name === consumer)
  }

  /** Whether there is something to be done now for messages that are there. */
  waits({ place, consumer, topic, due }: LeftRow): boolean {
    if (!due || place === 'dead' || place === 'parked') return false
    if (consumer === '') return true
    const ours = this.#consumers.find(({ name }) => name === consumer)
    if (ours === undefined) return false
    return place !== 'unhandled' || takes(Object.keys(ours.config.handlers), topic)
  }

  /** How long a claimer has a failed message wait: so long that it is not attempted again meanwhile. */
  pause(consumer: string, id: string, ms: number): number {
    this.#pauses.set(`${consumer} ${id}`, { consumer, id, ms })
    return far
  }

  /** Gives the messages that have failed their true pauses, once nobody is at work any more. */
  async writePauses(database: Database): Promise<void> {
    const all = [...this.#pauses.values()]
    if (all.length === 0) return
    await database.query(testingSql(database.schema).pause, {
      consumers: all.map(({ consumer }) => consumer),
      ids: all.map(({ id }) => id),
      ms: all.map(({ ms }) => ms),
    })
  }

  onEvent(event: TwinboxEvent): void {
    if (event.type === 'handled') this.handled += event.ids.length
    if (event.type === 'message_failed') this.#fail(event)
    if (event.type === 'trouble') this.troubles.push(`${event.doing}: ${describeError(event.error)}`)
    if (event.type === 'database_down' || event.type === 'broker_down')
      this.troubles.push(`${event.type}: ${describeError(event.error)}`)
    this.#wake()
  }

  #fail({
    id,
    topic,
    consumer,
    attempt,
    error,
    retryInMs,
  }: Extract<TwinboxEvent, { type: 'message_failed' }>): void {
    const pause = this.#pauses.get(`${consumer ?? ''} ${id}`)
    this.failed.push({
      ...{ id, topic, consumer, attempt, error },
      retryInMs: retryInMs === null ? null : (pause?.ms ?? retryInMs),
    })
  }

  /** Resolves when something has happened, or after so long. */
  async next(ms: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      this.#wake = resolve
      timer = setTimeout(resolve, ms)
    })
    clearTimeout(timer)
  }
}

/** Longer than anything is settled: until its end the true pauses are not to be seen. */
const far = 365 * 24 * 3_600_000
