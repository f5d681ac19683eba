import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Found } from './require.ts'

const run = promisify(execFile)

/** Files of a server's certificate, made out to `localhost` and to nothing else. */
export interface Certificate {
  readonly folder: string
  /** Who has signed it. */
  readonly ca: string
  readonly certificate: string
  readonly key: string
  /** Another authority, which has not. */
  readonly otherCa: string
  remove(): Promise<void>
}

/** Makes them with openssl, good for a day. */
export async function makeCertificate(): Promise<Found<Certificate>> {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-tls-'))
  const file = (name: string): string => join(folder, name)
  const authority = async (name: string): Promise<void> => {
    await run('openssl', [
      ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', `/CN=${name}`],
      ...['-keyout', file(`${name}.key`), '-out', file(`${name}.pem`)],
      ...['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=keyCertSign'],
    ])
  }
  try {
    // Servers that run as another user have to reach it.
    await chmod(folder, 0o755)
    await Promise.all([authority('ca'), authority('other')])
    await writeFile(file('extensions'), 'subjectAltName=DNS:localhost\n')
    await run('openssl', [
      ...['req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost'],
      ...['-keyout', file('server.key'), '-out', file('server.csr')],
    ])
    await run('openssl', [
      ...['x509', '-req', '-in', file('server.csr'), '-CA', file('ca.pem'), '-CAkey', file('ca.key')],
      ...['-CAcreateserial', '-days', '1', '-extfile', file('extensions'), '-out', file('server.pem')],
    ])
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      return { missing: 'openssl is not there to make certificates' }
    }
    throw error
  }
  return {
    folder,
    ca: file('ca.pem'),
    otherCa: file('other.pem'),
    certificate: file('server.pem'),
    key: file('server.key'),
    remove: () => rm(folder, { recursive: true, force: true }),
  }
}
