import { BrokerError } from '../base/errors.ts'

/** A client library, which is an optional peer: loaded when it is needed. @throws BrokerError that says how to get it */
export async function loadPeer<Library>(name: string, load: () => Promise<Library>): Promise<Library> {
  try {
    return await load()
  } catch (cause) {
    throw new BrokerError(
      'config',
      `The package ${name} could not be loaded (npm install ${name} adds it to your project)`,
      { cause },
    )
  }
}
