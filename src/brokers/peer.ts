import { BrokerError } from '../base/errors.ts'

/**
 * What to throw where the client library, an optional peer, could not be loaded. Each library is imported inside of a `try`, in the
 * function that has it: elsewhere a missing library ends a bundler's run, also of a program that uses another broker.
 */
export const missingPeer = (name: string, cause: unknown): BrokerError =>
  new BrokerError(
    'config',
    `The package ${name} could not be loaded (npm install ${name} adds it to your project)`,
    { cause },
  )
