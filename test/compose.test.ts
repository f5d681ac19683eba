import { readdir, readFile } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'

/** `docker-compose.yml` is what the README tells people to start: it has to be valid, pinned, and fit what is written there and in docs. */

interface Service {
  readonly image: string
  readonly ports: readonly string[]
  readonly environment?: Readonly<Record<string, string | number>>
  readonly healthcheck: { readonly test: readonly string[] }
}

const compose = parse(await readFile('docker-compose.yml', 'utf8'), { strict: true, uniqueKeys: true }) as {
  readonly services: Readonly<Record<string, Service>>
}
const pages = [
  'README.md',
  ...(await readdir('docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`),
]
const written = (await Promise.all(pages.map((page) => readFile(page, 'utf8')))).join('\n')
const services = Object.entries(compose.services)

test('it has the servers of the README and nothing else', () => {
  expect(Object.keys(compose)).toEqual(['services'])
  expect(Object.keys(compose.services).toSorted()).toEqual(['kafka', 'postgres', 'rabbitmq', 'zookeeper'])
})

describe.each(services)('%s', (name, service) => {
  test('has only keys that Compose knows', () => {
    const known = ['image', 'environment', 'ports', 'healthcheck']
    expect(Object.keys(service).filter((key) => !known.includes(key))).toEqual([])
    expect(Object.keys(service.healthcheck).toSorted()).toEqual(['interval', 'retries', 'test', 'timeout'])
    expect(service.healthcheck.test[0]).toBe('CMD')
  })

  test('is pinned to a version, with its minor', () => {
    expect(service.image).toMatch(/^[a-z/]+:\d+\.\d+(\.\d+)?$/)
  })

  test('is reached from this machine only, on its standard port', () => {
    const port = { postgres: 5432, rabbitmq: 5672, kafka: 9092, zookeeper: 2181 }[name]!
    expect(service.ports).toEqual([`127.0.0.1:${port}:${port}`])
  })
})

test('the addresses of README and docs reach it, with its user and password', () => {
  const password = compose.services['postgres']!.environment!['POSTGRES_PASSWORD']
  const local = [...written.matchAll(/postgres:\/\/[^\s'"`<@]+@(?:127\.0\.0\.1|localhost)[^\s'"`<)]*/g)].map(
    ([url]) => new URL(url),
  )
  expect(local.length).toBeGreaterThan(0)
  // Who has none in the URL has it from the environment.
  expect(written.match(/PGPASSWORD=(\S+)/)?.[1]).toBe(password)
  for (const url of local) {
    expect([url.username, url.password || password, url.port || '5432']).toEqual([
      'postgres',
      password,
      '5432',
    ])
  }
  for (const [found] of written.matchAll(/amqp:\/\/[^\s'"`<)]*(?:127\.0\.0\.1|localhost)[^\s'"`<)]*/g)) {
    const url = new URL(found)
    // The image's own user, which it lets in from everywhere.
    expect([url.username || 'guest', url.password || 'guest', url.port || '5672']).toEqual([
      'guest',
      'guest',
      '5672',
    ])
  }
  // A session that docs/failover.md asks for has to be granted.
  const tickMs = Number(compose.services['zookeeper']!.environment!['ZOO_TICK_TIME'])
  expect(/sessionTimeoutMs: (\d+)/.exec(written)?.[1]).toBe('2000')
  expect(tickMs * 2).toBeLessThanOrEqual(2000)
  expect(written).toContain("servers: ['127.0.0.1:2181']")
  const listeners = String(compose.services['kafka']!.environment!['KAFKA_ADVERTISED_LISTENERS'])
  expect(listeners).toBe('PLAINTEXT://127.0.0.1:9092')
})
