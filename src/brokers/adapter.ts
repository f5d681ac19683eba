import type { DatabaseInput } from '../database/database.ts'
import type { Broker, DeliveredEvent } from './broker.ts'

/**
 * All that the command line, the proof and the tests need of a broker. It stands in the broker's folder, `adapter.ts`, and in
 * `registry.ts`. It loads the rest of the folder only when it is asked to: whoever does without a broker does without its
 * client library as well.
 */
export interface Adapter {
  /** Of `--broker` and of the folder. The package exports the broker as `twinbox/<name>`, a function of this name. */
  readonly name: string
  /** The client library, an optional peer of the package; null if there is none. */
  readonly peer: string | null
  /** Other libraries that do the same, optional peers as well, and what follows the `?` of `--url` to take one. */
  readonly otherPeers?: readonly OtherPeer[]
  /** What `--url` may look like. */
  readonly urlExample: string
  /** Whether it is one that works without `--url`, since it is where the tables are. */
  readonly urlOptional: boolean
  /** Whether a trial needs `--url` as well: not of one that is where the tables are, and of one without a server. */
  readonly trialNeedsUrl: boolean
  /** Whether only the broker can end what a consumer is subscribed to, since it keeps it. */
  readonly keepsSubscriptions: boolean
  /** What `twinbox unsubscribe` says when it has done its work; null for nothing. */
  readonly unsubscribed: string | null
  /** What `twinbox/<name>` exports. */
  readonly load: () => Promise<object>
  /** A broker with default options. Connects to nothing. @throws OptionError */
  readonly open: (place: Place) => Promise<Broker>
  readonly openTrial: (place: TrialPlace) => Promise<Trial>
}

export interface OtherPeer {
  readonly peer: string
  readonly query: string
}

/** Where a broker is, by flags and environment. */
export interface Place {
  /** There, unless it is optional. */
  readonly url?: string | undefined
  /** Whether a password may be sent there without TLS. */
  readonly insecure?: boolean | undefined
  /** Where the tables are. */
  readonly database: () => DatabaseInput
  readonly schema: string
}

export interface TrialPlace extends Place {
  /** Part of all names that are made there. Trials of other names are strangers, those of one name belong together. */
  readonly name: string
  /** Whether all topics may share one of the broker's, where making fifty would take longer than the trial. */
  readonly fewTopics?: boolean
  /**
   * Where connections to an address go instead, for what does not connect through `node:net`: through proxies on this machine, by their
   * ports.
   */
  readonly via?: readonly (Address & { readonly via: number })[]
}

/** A broker to try something with: the demo and the soak in many processes, and the contract suite of the tests. */
export interface Trial {
  /** A new one, under the names of the trial. Connects to nothing. @throws OptionError */
  readonly open: () => Broker
  /** Options by which a receiver gets all that is sent. */
  readonly receiving: Receiving
  /** A topic that nobody takes; null if there is no such thing. */
  readonly nowhere: string | null
  /** Where it listens, as clients see it. @throws whatever the client library says of a broker that cannot be used */
  readonly locate: () => Promise<Address[]>
  /** Removes what the trial has made for these consumers, and all that they shared. */
  readonly clear: (consumers: readonly string[]) => Promise<void>
}

export interface Receiving {
  readonly topics: readonly string[]
  readonly from?: readonly string[]
  readonly topicOf?: (event: DeliveredEvent) => string
}

/** Where a server listens. */
export interface Address {
  readonly host: string
  readonly port: number
}
