import { OptionError } from '../base/errors.ts'
import { callable, refuseUnknown } from '../base/options.ts'
import type { DatabaseInput } from '../database/database.ts'

/** Somebody who looks at the dashboard. */
export interface Viewer {
  /** Stands in the audit beside what they do. */
  readonly name: string
  /** `read` sees all pages; `operate` may also redrive, skip, erase and evict. */
  readonly access: 'read' | 'operate'
}

/** A message whose payload somebody wants to see. */
export interface ShownMessage {
  readonly id: string
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly topic: string
  readonly key: string | null
  readonly headers: Readonly<Record<string, string>>
  readonly contentType: string | null
  /** As it is stored: JSON as its text, anything else as bytes. */
  readonly payload: string | Uint8Array
}

/** How messages are shown. */
export interface DisplayOptions {
  /** Where a trace is found: `https://traces.example/trace/{traceId}`. @default no link */
  readonly traceUrl?: string | undefined
  /**
   * The payload as text for this viewer, or null if the viewer may not see it. Called only when somebody asks for it. It may leave
   * out what is personal. @default payloads are not shown
   */
  readonly showPayload?:
    ((message: ShownMessage, viewer: Viewer) => Promise<string | null> | string | null) | undefined
}

export interface DashboardOptions extends DisplayOptions {
  /** Where the tables are. The role `twinbox_reader` is enough to look; to act takes `twinbox_operator`. */
  readonly database: DatabaseInput
  /**
   * Who it is that asks, by whatever your application knows its users by; null for nobody. Asked for every page and every action.
   */
  readonly authorize: (request: Request) => Promise<Viewer | null> | Viewer | null
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /** The path under which browsers find it, such as `/ops/twinbox`. @default where Express has mounted it, else `/` */
  readonly basePath?: string | undefined
  /**
   * At least 32 characters. Tokens of forms are made with it: give the same to all processes behind one address. @default a random one
   */
  readonly secret?: string | undefined
}

/** @throws OptionError */
export function checkOptions(options: DashboardOptions): void {
  refuseUnknown('createDashboard', options, [
    ...(['database', 'authorize', 'schema', 'basePath', 'secret', 'traceUrl', 'showPayload'] as const),
  ])
  if (typeof options.authorize !== 'function') {
    throw new OptionError(
      'authorize',
      'authorize must be a function that says who asks, (request) => ({ name, access }) or null: without one, everybody could operate.',
    )
  }
  callable('showPayload', options.showPayload)
  if (options.traceUrl !== undefined && !/^https?:\/\/.*\{traceId\}/.test(options.traceUrl)) {
    throw new OptionError('traceUrl', 'traceUrl must be an http or https URL with {traceId} in it.')
  }
  if (options.secret !== undefined && !(typeof options.secret === 'string' && options.secret.length >= 32)) {
    throw new OptionError('secret', 'secret must be text of at least 32 characters.')
  }
}

/** Without a slash at its end; '' is the root. @throws OptionError */
export function readBasePath(given: string | undefined): string {
  if (given === undefined) return ''
  if (typeof given !== 'string' || !/^(\/[\w.~-]+)*\/?$/.test(given) || /\/\.{1,2}(\/|$)/.test(given)) {
    throw new OptionError('basePath', 'basePath must be a path such as /ops/twinbox.')
  }
  return given.replace(/\/$/, '')
}
