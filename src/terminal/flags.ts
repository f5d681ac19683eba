/** What the flags of all commands say. */
export interface CommonFlags {
  readonly config?: string
  readonly database?: string
  readonly schema?: string
  readonly broker?: string
  readonly url?: string
  readonly insecure?: boolean
  readonly consumer?: string
  /** Servers of ZooKeeper. */
  readonly zookeeper?: string
  readonly metricsPort?: number
  readonly metricsHost?: string
  /** In milliseconds. */
  readonly stuckAfter?: number
  readonly watch?: boolean
  readonly json?: boolean
  readonly verbose?: boolean
}

/** Those of the commands that run workers. */
export interface Flags extends CommonFlags {
  readonly topic?: readonly string[]
}

/** By which a configuration is found in the folder where a command is started; the first that is there counts. */
export const configNames = ['twinbox.config.js', 'twinbox.config.mjs', 'twinbox.config.ts']
