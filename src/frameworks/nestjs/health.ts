import type { Application } from '../application.ts'
import type { HealthProblem } from '../../observe/health.ts'

/** As @nestjs/terminus takes it from an indicator. */
export type HealthIndication<Key extends string> = Readonly<
  Record<Key, { readonly status: 'up' | 'down'; readonly problems?: readonly HealthProblem[] }>
>

export interface IndicateOptions {
  /** Tell what is wrong, with names of consumers, topics and hosts: not where strangers can ask. @default false */
  readonly problems?: boolean | undefined
}

/**
 * Tells @nestjs/terminus whether the workers of this process move: `health.check([() => twinbox.ready()])`. Inject it by its class;
 * `TwinboxModule` provides it everywhere.
 */
export class TwinboxHealthIndicator {
  readonly #application: Application

  /** Nest makes it. */
  constructor(application: Application) {
    this.#application = application
  }

  /** Down if another start of the process may help. */
  live<const Key extends string = 'twinbox'>(
    key?: Key,
    options?: IndicateOptions,
  ): Promise<HealthIndication<Key>> {
    return this.#indicate('live', key, options)
  }

  /** Down if work does not move, for whatever reason. */
  ready<const Key extends string = 'twinbox'>(
    key?: Key,
    options?: IndicateOptions,
  ): Promise<HealthIndication<Key>> {
    return this.#indicate('ready', key, options)
  }

  async #indicate<Key extends string>(
    probe: 'live' | 'ready',
    key: Key = 'twinbox' as Key,
    { problems = false }: IndicateOptions = {},
  ): Promise<HealthIndication<Key>> {
    const report = await this.#application.check()
    const status = report[probe] ? 'up' : 'down'
    const indication = { status, ...(problems && { problems: report.problems }) }
    return { [key]: indication } as HealthIndication<Key>
  }
}
