import { BlockList, isIP } from 'node:net'

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/**
 * Whether what is sent there stays on this machine: `localhost`, a loopback address, a Unix socket. Any other name may be another
 * machine, whatever it is called: `127.0.0.1.example.com` is one.
 */
export function isLocal(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, '$1')
  if (bare === '' || bare.startsWith('/') || bare.toLowerCase() === 'localhost') return true
  const version = isIP(bare)
  return version !== 0 && loopback.check(bare, version === 4 ? 'ipv4' : 'ipv6')
}
