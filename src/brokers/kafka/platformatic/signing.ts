import { callbackify } from 'node:util'
import type * as Platformatic from '@platformatic/kafka'
import type {
  BaseOptions,
  Connection,
  SASLCustomAuthenticator,
  SASLMechanismValue,
} from '@platformatic/kafka'
import { BrokerError, OptionError } from '../../../base/errors.ts'
import { hostsOf, type Settings } from '../options.ts'
import { askForSasl, checkSasl, type Sasl } from '../sasl.ts'

/**
 * What a new client signs in with, asked anew at each sign-in: when a connection comes back, and when the broker wants to see a fresh token.
 * The brokers that we know name others, which may be elsewhere: a secret is not sent there in the clear either.
 * @throws BrokerError if a function is asked for it
 */
export async function signingIn(
  library: typeof Platformatic,
  settings: Settings,
): Promise<Pick<BaseOptions, 'sasl'>> {
  const { sasl: option, brokers } = settings
  if (option === null) return {}
  const give = async (hosts: readonly string[]): Promise<Sasl> =>
    typeof option === 'function' ? askForSasl(option, hosts, settings) : checkSasl(option, hosts, settings)
  const mechanism = mechanismOf(await give(hostsOf(brokers)))
  const signIn = async (connection: Connection, api: Parameters<SASLCustomAuthenticator>[2]) => {
    const sasl = await give([connection.host!]).catch((error: unknown) => {
      throw error instanceof OptionError ? new BrokerError('config', error.message) : error
    })
    if (mechanismOf(sasl) !== mechanism)
      throw new BrokerError('reconnect', `The function sasl says ${sasl.mechanism} instead of ${mechanism}.`)
    if ('oauthBearerProvider' in sasl) {
      const { value } = await sasl.oauthBearerProvider()
      return library.saslOAuthBearer.authenticate(api, connection, value, {})
    }
    const { username, password } = sasl as Extract<Sasl, { readonly username: string }>
    if (mechanism === 'PLAIN') return library.saslPlain.authenticate(api, connection, username, password)
    const algorithm = mechanism === 'SCRAM-SHA-256' ? 'SHA-256' : 'SHA-512'
    return library.saslScramSha.authenticate(api, connection, algorithm, username, password)
  }
  return {
    sasl: {
      mechanism,
      authenticate: (_mechanism, connection, api, _user, _password, _token, callback) => {
        callbackify(signIn)(connection, api, callback)
      },
    },
  }
}

const mechanismOf = ({ mechanism }: Sasl): SASLMechanismValue => mechanism.toUpperCase() as SASLMechanismValue
