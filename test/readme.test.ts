import { execFile } from 'node:child_process'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
})
afterAll(() => database.drop())

test('the program in the README runs as it stands there', async () => {
  const readme = await readFile('README.md', 'utf8')
  const program = /<!-- program.*?```ts\n(.*?)```/s.exec(readme)![1]!
  // Inside the package its own name resolves as it does for a user, through the exports. The build has to be there.
  const folder = `.build/readme-${process.pid}`
  await mkdir(folder, { recursive: true })
  await writeFile(`${folder}/program.mjs`, program)
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [`${folder}/program.mjs`], {
      env: { ...process.env, DATABASE_URL: database.url },
      timeout: 30_000,
    })
    expect(stdout).toMatch(/^invoiced \{ order_id: 'order-\d+', total: 42 \}\n$/)
  } finally {
    await rm(folder, { recursive: true })
  }
  expect(program.trim().split('\n').length).toBeLessThanOrEqual(55)
})
