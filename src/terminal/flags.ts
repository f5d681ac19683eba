/** What the flags of all commands say. */
export interface CommonFlags {
  readonly config?: string
  readonly database?: string
  readonly schema?: string
  readonly broker?: string
  readonly url?: string
  readonly insecure?: boolean
  readonly consumer?: string
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
