import type { KafkaConfig, Mechanism } from 'kafkajs'
import type { ConnectionOptions } from 'node:tls'
import { BrokerError, OptionError } from '../../base/errors.ts'
import { askFor, checkAnswer, refusePlaintext } from '../credentials.ts'

/** As whom to sign in, as kafkajs takes it. */
export type Sasl = NonNullable<KafkaConfig['sasl']>

/** What decides who could read a secret on its way. */
export interface Way {
  readonly ssl: boolean | ConnectionOptions
  readonly insecure: boolean
}

/** @throws OptionError unless it is what kafkajs takes, and may be sent to these hosts */
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

/** The `sasl` of one client, and whether it may be sent to a host that the brokers name. */
export interface SigningIn {
  readonly sasl: Sasl | undefined
  /** @throws OptionError */
  readonly checkHost: (host: string) => void
}

/**
 * What a new client signs in with. Of a function, kafkajs is given an object that asks it anew before each sign-in: when a
 * connection comes back, and when the broker wants to see a fresh token (`connections.max.reauth.ms`).
 * @throws BrokerError if a function is asked for it
 */
export async function signingIn(
  option: Sasl | (() => Sasl | Promise<Sasl>) | null,
  hosts: readonly string[],
  way: Way & { readonly sendTimeoutMs: number },
): Promise<SigningIn> {
  if (option === null) return { sasl: undefined, checkHost: () => {} }
  const ask = async (give: () => Sasl | Promise<Sasl>): Promise<Sasl> => {
    const given = await askFor('sasl', give, way.sendTimeoutMs)
    return checkAnswer('sasl', () => checkSasl(given, hosts, way))
  }
  const sasl = typeof option === 'function' ? renewing(await ask(option), () => ask(option)) : option
  return { sasl, checkHost: (host) => void checkSasl(sasl, [host], way) }
}

type SignIn = Mechanism['authenticationProvider']

/**
 * kafkajs makes what signs in from this object when it first needs it, keeps it on this object, and has it read this object
 * each time. So before each time the object gets what is asked for. Two connections that sign in at once may see a password
 * change between two steps of one of them: it is refused, and comes again.
 */
function renewing(first: Sasl, ask: () => Promise<Sasl>): Sasl {
  const { mechanism } = first
  let signIn: SignIn | undefined =
    'authenticationProvider' in first ? first.authenticationProvider : undefined
  return {
    ...first,
    get authenticationProvider(): SignIn | undefined {
      if (signIn === undefined) return undefined
      return (connection) => ({
        authenticate: async () => {
          const now = await ask()
          if (now.mechanism !== mechanism)
            throw new BrokerError(
              'reconnect',
              `The function sasl says ${now.mechanism} instead of ${mechanism}.`,
            )
          Object.assign(this, now)
          await signIn!(connection).authenticate()
        },
      })
    },
    set authenticationProvider(made) {
      signIn = made
    },
  } as Sasl
}
