import { defineConfig } from 'vitest/config'

/** Each of these starts half a dozen processes: two at a time would want more connections than a server has. */
const processes = [
  'test/crash/**/*.test.ts',
  'test/disaster/*.test.ts',
  'test/telemetry/processes.test.ts',
  'test/telemetry/cli.test.ts',
  'test/roles.test.ts',
  'test/cli.test.ts',
  'test/demo.test.ts',
  'test/bench.test.ts',
  'test/soak/soak.test.ts',
]

/**
 * On CI's shared cores a test may run out of time because the machine, and not the code, stood still: it is tried once
 * more there, and the report says so. What was never drained is no such case, and a failed assertion neither: a message
 * that nobody handles is what we promise not to have.
 */
const retry = process.env['CI'] === undefined ? 0 : { count: 1, condition: /timed out/i }

export default defineConfig({
  test: {
    retry,
    globalSetup: ['test/support/setup.ts'],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Each of these has a database and half a dozen workers.
    maxConcurrency: 3,
    projects: [
      {
        extends: true,
        test: {
          name: 'units and servers',
          include: ['test/**/*.test.ts'],
          exclude: processes,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'processes',
          include: processes,
          testTimeout: 120_000,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
})
