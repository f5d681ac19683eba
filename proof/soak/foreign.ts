/** What handlers throw that is not ours: an error of any library, of another database, or no error at all. */
export function foreignError(n: number): unknown {
  const made = kinds[n % kinds.length]!
  return made()
}

const coded = (message: string, code: string): Error => Object.assign(new Error(message), { code })

const kinds: readonly (() => unknown)[] = [
  () => new Error('throw on purpose'),
  () => coded('connect ECONNREFUSED 127.0.0.1:9', 'ECONNREFUSED'),
  () => coded("ENOENT: no such file or directory, open 'template'", 'ENOENT'),
  // The words and the codes of a lost connection, of a lost claim and of a conflict, all of another database.
  () => new Error('Connection terminated unexpectedly'),
  () => coded('terminating connection due to administrator command', '57P01'),
  () => coded('cannot execute INSERT in a read-only transaction', '25006'),
  () => coded('the claim is lost', 'TWX01'),
  () => coded('could not serialize access', '40001'),
  () => new Error('could not charge', { cause: coded('read ETIMEDOUT', 'ETIMEDOUT') }),
  () => new AggregateError([coded('connect EHOSTUNREACH', 'EHOSTUNREACH')]),
  () => new DOMException('This operation was aborted', 'AbortError'),
  () => Object.freeze(new Error('frozen')),
  () => new Error(`\0${'x'.repeat(100_000)}\ud800`),
  () => 'a text',
  () => null,
  () => Object.create(null) as unknown,
  () => new Proxy(new Error('a trap'), { get: () => kinds[0]!() }),
]
