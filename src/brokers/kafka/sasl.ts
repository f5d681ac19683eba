import type { ConnectionOptions } from 'node:tls'
import { OptionError } from '../../base/errors.ts'
import { askFor, checkAnswer, refusePlaintext } from '../credentials.ts'

/** As whom to sign in, as kafkajs takes it. The last two are for kafkajs alone. */
export type Sasl =
  | {
      readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'
      readonly username: string
      readonly password: string
    }
  | {
      readonly mechanism: 'oauthbearer'
      /** Asked at each sign-in. */
      readonly oauthBearerProvider: () => Promise<{ readonly value: string }>
    }
  | {
      readonly mechanism: 'aws'
      readonly authorizationIdentity: string
      readonly accessKeyId: string
      readonly secretAccessKey: string
      readonly sessionToken?: string | undefined
    }
  | {
      readonly mechanism: string
      /** `Mechanism['authenticationProvider']` of kafkajs. */
      readonly authenticationProvider: (args: never) => { readonly authenticate: () => Promise<void> }
    }

/** What decides who could read a secret on its way, and how it is sent. */
export interface Way {
  readonly client: 'kafkajs' | 'platformatic'
  readonly ssl: boolean | ConnectionOptions
  readonly insecure: boolean
}

/** What every client library has. */
const common = /^(plain|scram-sha-256|scram-sha-512|oauthbearer)$/i

/** @throws OptionError unless it is what the client library takes, and may be sent to these hosts */
export function checkSasl(sasl: unknown, hosts: readonly string[], way: Way): Sasl {
  if (
    typeof sasl !== 'object' ||
    sasl === null ||
    !('mechanism' in sasl) ||
    typeof sasl.mechanism !== 'string'
  )
    throw new OptionError(
      'sasl',
      'sasl must be an object with a mechanism, as in kafkajs, or a function that gives one.',
    )
  if (way.client !== 'kafkajs' && !common.test(sasl.mechanism))
    throw new OptionError(
      'sasl',
      `sasl has the mechanism ${sasl.mechanism}, which only kafkajs has: use client: 'kafkajs', or plain, scram-sha-256, scram-sha-512 or oauthbearer.`,
    )
  // SCRAM proves that it knows the password without showing it.
  if (!way.insecure && !/^scram-/i.test(sasl.mechanism))
    refusePlaintext(
      'sasl',
      hosts,
      way.ssl,
      'set ssl with a certificate that is verified, or use scram-sha-512',
    )
  return sasl as Sasl
}

/** What a function for `sasl` gives this time. @throws BrokerError */
export async function askForSasl(
  give: () => Sasl | Promise<Sasl>,
  hosts: readonly string[],
  way: Way & { readonly sendTimeoutMs: number },
): Promise<Sasl> {
  const given = await askFor('sasl', give, way.sendTimeoutMs)
  return checkAnswer('sasl', () => checkSasl(given, hosts, way))
}
