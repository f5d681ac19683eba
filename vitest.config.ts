import { defineConfig } from 'vitest/config'

/**
 * Every test file has one tag, which is a project here: `npx vitest run --project quick`. A file that no list names is
 * quick: it needs Postgres at most, and all quick files together take less than a minute.
 */
const tags = {
  /** Postgres alone, or a process at a time, but many histories, many rows or many seconds. */
  'servers:postgres': [
    'test/model/*.test.ts',
    'test/{bad-input,claimer,doctor,failover,foreign,watermark,health,memory,migrate,package,plans,receiver}.test.ts',
    'test/{rowsecurity,schedules,settings,sleep,unhandled,upkeep,sequences,workers}.test.ts',
    'test/claimer/{circuits,errors,runs,window}.test.ts',
    'test/operate/*.test.ts',
    'test/topics/{asyncapi,handling,typing}.test.ts',
    'test/frameworks/*.test.ts',
    'test/dashboard/{browser,workers}.test.ts',
    'test/testing/testing.test.ts',
    'test/dashboard/{command,mounts,overview,signin}.test.ts',
    'test/attack/{handler,tables,surface,terminal}.test.ts',
    'test/telemetry/{cli,processes,tracing}.test.ts',
    'test/{cli,demo,roles,runtimes,start}.test.ts',
    'test/soak/checker.test.ts',
  ],
  'servers:rabbitmq': [
    'test/brokers/{rabbitmq,registry}.test.ts',
    'test/brokers/rabbitmq/*.test.ts',
    'test/{attack,examples}/rabbitmq.test.ts',
  ],
  'servers:kafka': [
    'test/brokers/kafka.test.ts',
    'test/brokers/kafka/*.test.ts',
    'test/{tls,attack/{identity,kafka,rotation,topics},examples/kafka}.test.ts',
    'test/membership/zookeeper/session.test.ts',
  ],
  /** The second client library of Kafka, which needs a later Node than Twinbox: on an earlier one its tests are skipped. */
  'servers:platformatic': ['test/{brokers/kafka,crash}/platformatic*.test.ts'],
  /** The scenarios bring a Postgres of their own, so that others may run beside them. */
  'servers:zeromq': ['test/brokers/zeromq/*.test.ts', 'test/examples/scenarios.test.ts'],
  /** Data libraries in their newest and oldest versions, which are installed for it. */
  'servers:libraries': ['test/libraries/*.test.ts', 'test/testing/pglite.test.ts'],
  /** Servers that die, each file with its own: they wait most of the time, and take no connections of others. */
  'servers:disaster': ['test/disaster/*.test.ts', 'test/soak/soak.test.ts'],
  /** Half a dozen processes each, which are killed: two files at a time would want more connections than a server has. */
  processes: ['test/crash/*.test.ts', 'test/bench.test.ts'],
  /** Hours in all, and so no part of `npm test`: `npm run test:long` says in `test/long/results.md` what came of them. */
  long: ['test/long/*.test.ts'],
}

export default defineConfig({
  test: {
    globalSetup: ['test/support/setup.ts'],
    setupFiles: ['test/support/tripwire.ts'],
    reporters: ['default', 'test/support/minutes.ts'],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
    // Each of these has a database and half a dozen workers.
    maxConcurrency: 3,
    projects: [
      project('quick', {
        ...{ include: ['test/**/*.test.ts'], exclude: Object.values(tags).flat(), order: 0 },
        together: true,
      }),
      project('servers:postgres', { order: 1 }),
      project('servers:rabbitmq', { order: 1 }),
      project('servers:kafka', { order: 1, exclude: tags['servers:platformatic'] }),
      project('servers:platformatic', { order: 1 }),
      project('servers:zeromq', { order: 1 }),
      project('servers:libraries', { order: 1 }),
      project('servers:disaster', { order: 1, timeout: 120_000 }),
      project('processes', {
        ...{ order: 2, alone: true, timeout: 120_000 },
        exclude: tags['servers:platformatic'],
      }),
      project('long', { order: 3, alone: true, timeout: 60 * 60_000 }),
    ],
  },
})

function project(
  name: 'quick' | keyof typeof tags,
  how: {
    readonly include?: string[]
    readonly exclude?: string[]
    /** Projects of one number run together, and after those of a smaller one. */
    readonly order: number
    /** One file at a time. */
    readonly alone?: boolean
    /** Files share a process, and what they import: to import it anew takes longer than most of them. */
    readonly together?: boolean
    readonly timeout?: number
  },
) {
  return {
    extends: true as const,
    test: {
      name,
      include: how.include ?? (name === 'quick' ? [] : tags[name]),
      exclude: how.exclude ?? [],
      sequence: { groupOrder: how.order },
      fileParallelism: how.alone !== true,
      isolate: how.together !== true,
      ...(how.timeout === undefined ? {} : { testTimeout: how.timeout, hookTimeout: how.timeout }),
    },
  }
}
