import type { KafkaConfig, Mechanism } from 'kafkajs'
import { BrokerError } from '../../../base/errors.ts'
import { askForSasl, checkSasl, type Sasl, type Way } from '../sasl.ts'

/** What kafkajs calls `sasl`. */
type Given = NonNullable<KafkaConfig['sasl']>

/** The `sasl` of one client, and whether it may be sent to a host that the brokers name. */
export interface SigningIn {
  readonly sasl: Given | undefined
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
  const ask = async (give: () => Sasl | Promise<Sasl>): Promise<Given> =>
    (await askForSasl(give, hosts, way)) as Given
  const sasl =
    typeof option === 'function' ? renewing(await ask(option), () => ask(option)) : (option as Given)
  return { sasl, checkHost: (host) => void checkSasl(sasl, [host], way) }
}

type SignIn = Mechanism['authenticationProvider']

/**
 * kafkajs makes what signs in from this object when it first needs it, keeps it on this object, and has it read this object
 * each time. So before each time the object gets what is asked for. Two connections that sign in at once may see a password
 * change between two steps of one of them: it is refused, and comes again.
 */
function renewing(first: Given, ask: () => Promise<Given>): Given {
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
  } as Given
}
