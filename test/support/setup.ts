import { execFileSync } from 'node:child_process'
import { createTestDatabase, findPostgres } from './postgres.ts'

/**
 * Once per run: finds or starts Postgres, and compiles sources and tests into `.build`, since tests kill real processes
 * and a process needs a program to run. Types are `npm run check`'s business.
 */
export default async function setup(): Promise<() => Promise<void>> {
  // Once, though every project of the configuration asks for it.
  if (process.env.TWINBOX_TEST_SERVER !== undefined) return async () => {}
  for (const project of ['tsconfig.json', 'tsconfig.build.json']) {
    execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', project, '--noCheck'], {
      stdio: 'inherit',
    })
  }
  const postgres = await findPostgres()
  process.env.TWINBOX_TEST_SERVER = postgres.url
  process.stdout.write(`Postgres: ${postgres.from}\n`)
  // To copy what has been migrated costs a server a fifth of what migrating again does, and there are many databases.
  const template = await createTestDatabase()
  await template.pool.end()
  process.env.TWINBOX_TEST_TEMPLATE = new URL(template.url).pathname.slice(1)
  return async () => {
    await template.drop()
    await postgres.stop()
  }
}
