import { mkdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { migrate } from '../../src/index.ts'
import { launch, looks, openWindow, overhang, stumbles, watchPage } from '../support/browser.ts'
import { createTestDatabase } from '../support/postgres.ts'
import { isMissing } from '../support/require.ts'
import { chromium } from '../support/servers/chromium.ts'
import { shared, startSharing } from '../support/shared.ts'
import { Host } from './host.ts'
import { Scene } from './scene.ts'
import { pages, startJob } from './pages.ts'

/**
 * `npm run screenshots [-- FOLDER [PATTERN]]`: every view, or those whose files match, of the dashboard, at both widths and in both themes, as PNG files; and a line for each page
 * that a screen reader stumbles over, that is wider than its window, or that does something behind its reader's back.
 */
const folder = resolve(process.argv[2] ?? '.cache/screenshots')
const wanted = new RegExp(process.argv[3] ?? '')
await rm(folder, { recursive: true, force: true })
await mkdir(folder, { recursive: true })

const stop = await startSharing()
const found = await shared(chromium)
if (isMissing(found)) throw new Error(`Screenshots need Chromium: ${found.missing}.`)
// Compiled, it has no sources from which a template could be known to be of this commit.
const database = await createTestDatabase({ migrated: false })
await migrate(database.url)
const scene = await Scene.open(database)
const host = await Host.open({ database: database.url, showPayload: ({ payload }) => String(payload) })
const browser = await launch(found)
try {
  const list = await pages(database, await startJob(host))
  for (const look of looks) {
    const context = await openWindow(browser, look)
    await host.signIn(context)
    const page = await context.newPage()
    const seen = watchPage(page, host.origin)
    for (const { name, path } of list) {
      const file = join(folder, `${name}-${look.width}-${look.theme}.png`)
      if (!wanted.test(file)) continue
      await scene.publish(3)
      await page.goto(`${host.url}${path}`)
      // The charts have a few points then, and the page is not caught in the middle of an update.
      if (path === '/') {
        await page.locator('.chart canvas').first().waitFor()
        await page.waitForTimeout(6000)
      }
      await page.screenshot({ path: file, fullPage: true })
      const wide = await overhang(page)
      const faults = [
        ...(await stumbles(page)),
        ...seen.splice(0),
        ...(wide > 0 ? [`${wide} pixels too wide`] : []),
      ]
      process.stdout.write(`${file}\n${faults.map((fault) => `  ${fault}\n`).join('')}`)
    }
    await context.close()
  }
} finally {
  await browser.close()
  await host.close()
  await scene.close()
  await database.drop()
  await stop()
}
