import type { Database } from '../database/database.ts'
import type { Findings } from './findings.ts'
import type { Html } from './html.ts'
import type { DisplayOptions, Viewer } from './options.ts'
import type { Poll } from './poll.ts'
import type { Poller } from './poller.ts'
import type { Ring } from './ring.ts'

/** What all views and actions of one dashboard share: made once, closed with it. */
export interface Shared {
  readonly database: Database
  readonly schema: string
  readonly poller: Poller
  readonly findings: Findings
  readonly ring: Ring
  readonly options: DisplayOptions
  /** Runs when the dashboard is closed, before its database is. */
  onClose(end: () => Promise<void> | void): void
}

/** Text of a query or of hidden fields; what is null, undefined or '' is left out. */
export type Fields = Readonly<Record<string, string | number | null | undefined>>

/** One request, as views and actions see it. */
export interface Context {
  readonly viewer: Viewer
  /** Of this viewer, for forms that `form` does not make. */
  readonly token: string
  /** Whether the viewer may act. */
  readonly mayOperate: boolean
  /** The whole URL, as the browser has it. */
  readonly url: URL
  /** The query: of a page's URL. */
  readonly query: URLSearchParams
  /** The latest poll. It is never older than a few seconds while somebody watches. Null if none has succeeded yet. */
  readonly poll: Poll | null
  /** By the database's clock. */
  readonly now: Date
  /** Ends when the browser leaves. */
  readonly signal: AbortSignal
  readonly options: DisplayOptions
  /** The URL of one of our paths, wherever the dashboard is mounted. */
  readonly link: (path: string, query?: Fields) => string
  /**
   * A form that posts to an action, with the token and hidden fields. For a viewer who may only read it is nothing: what
   * would be refused is not offered.
   */
  readonly form: (action: string, fields: Fields, body: Html) => Html
}

/** A page. */
export interface View {
  /** Below the mount, such as `/workers`; the overview has `/`. */
  readonly path: string
  readonly title: string
  /** Its word in the navigation; without one it is not in there. */
  readonly nav?: string
  /** The page's content. Errors of options and of the database become a page that says them. */
  render(context: Context): Promise<Html>
  /**
   * The fragments of the page that follow the poll, by the name of their `data-live` element (see `fragment`). Drawn from the
   * poll alone, so that ten viewers cost the database what one does.
   */
  live?(context: Context): Readonly<Record<string, Html>>
}

/** What an action leads to. */
export interface Result {
  /** The page that is shown then: a path of ours, with its query. */
  readonly to: string
  readonly query?: Fields
  /** What it says at the top, once. */
  readonly said?: Flash
}

/** A file that an action gives instead of a page. */
export interface Download {
  readonly file: string
  readonly type: string
  readonly body: ReadableStream<Uint8Array>
}

export interface Flash {
  readonly tone: 'good' | 'bad' | 'note'
  readonly text: string
}

/** What a form does. Who may only read is refused before it runs. */
export interface Action {
  /** Below the mount, such as `/workers/evict`. */
  readonly path: string
  /** An OptionError of it is said on the page from which the form came. */
  run(form: URLSearchParams, context: Context): Promise<Result | Download>
  /** Whether those who may only read may do it, since it changes nothing for others. */
  readonly harmless?: boolean
}

/** What a dashboard consists of. */
export interface Views {
  /** All pages, in the order of the navigation. */
  readonly views: readonly View[]
  /** All that forms can do. */
  readonly actions: readonly Action[]
}
