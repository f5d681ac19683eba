import type { Command } from 'commander'
import type { Signature } from '../operate/filter.ts'

/** Who changes something, and why: the audit keeps it. */
export interface SignatureFlags {
  readonly reason?: string
  readonly by?: string
}

/** Adds the flags of a signature to a command that changes something. */
export const signed = (command: Command): Command =>
  command
    .option('--reason <text>', 'why, for those who ask later')
    .option('--by <name>', 'who (default: user@host)')

export const signatureOf = ({ reason, by }: SignatureFlags): Signature => ({ reason, by })
