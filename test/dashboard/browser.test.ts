import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createClaimer, evictWorkers, type Worker } from '../../src/index.ts'
import { Stage } from '../crash/stage.ts'
import {
  launch,
  lookAt,
  looks,
  openWindow,
  overhang,
  stumbles,
  watchPage,
  type Look,
} from '../support/browser.ts'
import { Command } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { describeWith, isMissing } from '../support/require.ts'
import { chromium } from '../support/servers/chromium.ts'
import { shared } from '../support/shared.ts'
import { until } from '../support/until.ts'
import { foreignSite, Host } from './host.ts'
import { pages, startJob } from './pages.ts'
import { Scene } from './scene.ts'

/** The dashboard in a real browser: how it looks, what people do with it, and what others try to have it do. */

const found = await shared(chromium)
let browser: Browser
beforeAll(async () => {
  if (!isMissing(found)) browser = await launch(found)
})
afterAll(() => browser?.close())

describeWith('chromium', found, 'the dashboard', () => {
  /** A window of somebody who is signed in, with an eye on what its page does; closed by the test. */
  async function visit(
    host: Host,
    { name = 'ada', look, script = true }: { name?: 'ada' | 'bob'; look?: Look; script?: boolean } = {},
  ): Promise<{ context: BrowserContext; page: Page; seen: string[] }> {
    const context = await openWindow(browser, look, { javaScriptEnabled: script })
    await host.signIn(context, name)
    const page = await context.newPage()
    return { context, page, seen: watchPage(page, host.origin) }
  }

  test('has instruments that see what is wrong', async () => {
    const context = await openWindow(browser, { width: 360, theme: 'light' })
    const page = await context.newPage()
    const seen = watchPage(page, 'http://127.0.0.1:1')
    await page.setContent(`<html lang="en"><title>t</title><main><h1>x</h1><input>
      <p style="color:#ccc;background:#fff;width:500px">faint</p><img src="http://127.0.0.1:9/x" alt="">
      <script>alert(1); nothing()</script></main>`)
    expect((await stumbles(page)).map((line) => line.split(' ')[0])).toEqual(
      expect.arrayContaining(['color-contrast', 'label']),
    )
    expect(await overhang(page)).toBeGreaterThan(100)
    await until(() => seen.length >= 3)
    expect(seen.join('\n')).toMatch(/dialog: 1[^]*error: nothing is not defined/)
    expect(seen.join('\n')).toContain('elsewhere: http://127.0.0.1:9/x')
    await context.close()
  })

  describe('as somebody looks at it', () => {
    let database: TestDatabase
    let scene: Scene
    let host: Host
    let job: string
    beforeAll(async () => {
      database = await createTestDatabase()
      scene = await Scene.open(database)
      host = await Host.open({ database: database.url })
      job = await startJob(host)
    })
    afterAll(async () => {
      await host.close()
      await scene.close()
      await database.drop()
    })

    test(
      'every view is good to read, at 360 and 1,440 pixels, light and dark',
      { timeout: 240_000 },
      async () => {
        const { context, page, seen } = await visit(host, { look: looks[0]! })
        const faults: string[] = []
        for (const { name, path } of await pages(database, job)) {
          const response = await page.goto(`${host.url}${path}`)
          if (response!.status() !== 200) faults.push(`${name}: ${response!.status()}`)
          if (path === '/') await page.locator('.chart canvas').first().waitFor()
          if (path === job) await page.locator('progress').waitFor()
          // Of one page, as it was loaded: to load it again for each look costs more than all that is asked of it.
          for (const look of looks) {
            await lookAt(page, look)
            const wide = await overhang(page)
            const here = [
              ...(await stumbles(page)),
              ...seen.splice(0),
              ...(wide > 0 ? [`${wide} pixels too wide`] : []),
            ]
            faults.push(...here.map((fault) => `${name}, ${look.width} ${look.theme}: ${fault}`))
          }
        }
        expect(faults).toEqual([])
        await context.close()
      },
    )

    test('every view of the navigation is among them', async () => {
      const { context, page } = await visit(host)
      await page.goto(host.url)
      const hrefs = await page
        .locator('nav a')
        .evaluateAll((all) =>
          all.map((link) => (link as unknown as { pathname: string }).pathname.replace(/^\/ops\/?/, '/')),
        )
      expect(hrefs.length).toBeGreaterThan(5)
      const listed = (await pages(database)).map(({ path }) => path.split('?')[0])
      expect(hrefs.filter((href) => !listed.includes(href))).toEqual([])
      await context.close()
    })

    test('who has chosen a theme keeps it', async () => {
      const { context, page } = await visit(host)
      await page.goto(`${host.url}/schedules`)
      const ground = () =>
        page.evaluate(() => {
          const shown = globalThis as unknown as Styled
          return shown.getComputedStyle(shown.document.body).backgroundColor
        })
      const light = await ground()
      await page.getByRole('button', { name: 'dark' }).click()
      expect(page.url()).toBe(`${host.url}/schedules`)
      expect(await ground()).not.toBe(light)
      await page.goto(`${host.url}/workers`)
      expect(await ground()).not.toBe(light)
      await context.close()
    })

    test('charts are drawn in the colours of a theme that the system changes to', async () => {
      const { context, page } = await visit(host)
      await page.goto(host.url)
      await page.locator('.chart canvas').first().waitFor()
      // From now on, polls bring nothing to draw.
      let kept = 0
      await page.route('**/chart?*', async (route) => {
        kept++
        await route.abort()
      })
      await until(() => kept > 0)
      const picture = () =>
        page
          .locator('.chart canvas')
          .first()
          .evaluate((canvas) => (canvas as unknown as { toDataURL(): string }).toDataURL())
      const light = await picture()
      await page.emulateMedia({ colorScheme: 'dark' })
      await until(async () => (await picture()) !== light)
      const dark = await picture()
      await page.emulateMedia({ colorScheme: 'light' })
      await until(async () => (await picture()) !== dark)
      expect(await picture()).toBe(light)
      await context.close()
    })

    test('the keyboard is enough, and stays where it is when a poll changes the page', async () => {
      const { context, page } = await visit(host)
      await page.goto(host.url)
      const focused = page.locator(':focus')
      await page.keyboard.press('Tab')
      expect(await focused.textContent()).toContain('Skip to the content')
      await page.keyboard.press('Enter')
      expect(await page.evaluate(() => (globalThis as unknown as Styled).document.activeElement?.id)).toBe(
        'content',
      )
      await page.keyboard.press('g')
      await page.keyboard.press('2')
      await page.waitForURL(`${host.url}/messages`)
      await page.keyboard.press('/')
      await until(async () => (await focused.getAttribute('name')) === 'id')
      await page.goto(`${host.url}/workers?kind=relay`)
      const evict = page.getByRole('link', { name: /Evict worker/ }).first()
      await evict.focus()
      const target = await evict.getAttribute('href')
      const beat = page.locator('[data-live="living"] td[data-head="Heartbeat"]').first()
      const before = await beat.textContent()
      await until(async () => (await beat.textContent()) !== before)
      expect(await focused.getAttribute('href')).toBe(target)
      await page.keyboard.press('Enter')
      await page.waitForURL(/\/workers\/evict/)
      expect(await page.getByRole('button', { name: /Evict worker/ }).isVisible()).toBe(true)
      await context.close()
    })

    test('without its script it reads and acts', async () => {
      const { context, page, seen } = await visit(host, { script: false })
      await page.goto(`${host.url}/schedules`)
      for (const [verb, done] of [
        ['Pause', 'publishes no more'],
        ['Resume', 'goes on'],
      ] as const) {
        await page.getByRole('link', { name: `${verb} daily-report` }).click()
        await page.getByLabel('Why, for those who ask later').fill('books are closed')
        await page.getByRole('button', { name: `${verb} daily-report` }).click()
        await page.getByText(`Done: daily-report ${done}`).waitFor()
      }
      expect(seen).toEqual([])
      await context.close()
    })

    test('who may only read sees all, is offered nothing, and is refused what they ask for', async () => {
      const { context, page } = await visit(host, { name: 'bob' })
      for (const { path } of await pages(database, job)) {
        const text = await (await context.request.get(`${host.url}${path}`)).text()
        const offered = [...text.matchAll(/<form[^>]*method="post"[^>]*action="([^"]*)"/g)].map(
          ([, action]) => action,
        )
        expect([path, offered]).toEqual([path, ['/ops/theme']])
      }
      await page.goto(`${host.url}/schedules`)
      const status = await page.evaluate(async () => {
        const { document } = globalThis as unknown as Styled
        const token = document.querySelector('input[name="token"]')!.value
        const body = new URLSearchParams({ token, name: 'daily-report' })
        return (await fetch('/ops/schedules/pause', { method: 'POST', body })).status
      })
      expect(status).toBe(403)
      expect(await database.query(`select from twinbox.schedule where paused_at is not null`)).toHaveLength(1)
      await context.close()
    })

    test('redrives 1,000 dead letters after it has said how many', async () => {
      await database.query(
        `insert into twinbox.dead_letter (consumer, seq, id, topic, payload, attempt, reason)
        select 'rebuilding', n, gen_random_uuid(), 'order.rebuilt', '1', 3, 'RangeError: it was a bug' from generate_series(1, 1000) as n`,
      )
      const { context, page, seen } = await visit(host)
      await page.goto(
        `${host.url}/dead/list?${new URLSearchParams({ box: 'rebuilding', class: 'RangeError' }).toString()}`,
      )
      await page.getByRole('link', { name: 'Redrive all that match' }).click()
      await page.getByText('1,000 dead letters').first().waitFor()
      const left = () => database.query(`select from twinbox.dead_letter where consumer = 'rebuilding'`)
      expect(await left()).toHaveLength(1000)
      await page.getByLabel(/^Why/).fill('the bug is mended')
      await page.getByLabel(/^At most/).fill('')
      await page.getByRole('button', { name: 'Redrive 1,000 dead letters' }).click()
      await page.getByText('Redriven: 1,000').waitFor()
      expect(await left()).toHaveLength(0)
      let handled = 0
      const claimer: Worker = createClaimer(
        { database: database.url, consumer: 'rebuilding' },
        { 'order.rebuilt': async () => void handled++ },
      )
      await claimer.start()
      await until(() => handled === 1000)
      await claimer.stop()
      await page.goto(`${host.url}/audit`)
      expect(await page.locator('main').innerText()).toMatch(
        /ada[^]*the bug is mended|the bug is mended[^]*ada/,
      )
      expect(seen).toEqual([])
      await context.close()
    })
  })

  test('shows a kill as it happens: how it was found, who took over, and how soon', async () => {
    const stage = await Stage.open()
    const host = await Host.open({ database: stage.database.url })
    const actors = [1, 2].map(() =>
      stage.start({ role: 'claimer', options: { heartbeatMs: 200, leaseMs: 120_000 }, handleMs: 1 }),
    )
    await Promise.all(actors.map(({ started }) => started))
    await stage.until(`select count(*) = 2 as done from (
      select holder from twinbox.lane where consumer <> '' and holder is not null group by holder having count(*) = 36
    ) as fair`)
    const { context, page, seen } = await visit(host)
    await page.goto(`${host.url}/workers`)
    const [victim, survivor] = await Promise.all(
      actors.map(async (actor) => (await actor.next('started')).workerId),
    )
    await page.getByRole('img', { name: `worker ${victim}, holds 36` }).waitFor()
    actors[0]!.kill('SIGKILL')
    const told = page.getByText(`Worker ${victim} (claimer of`).filter({ hasText: 'was found dead' })
    await told.filter({ hasText: /36 of its lanes/ }).waitFor()
    expect(await told.innerText()).toMatch(
      new RegExp(
        `was found dead \\S+ m?s after its last heartbeat, since its process was gone\\. Worker ${survivor} took 36 of its lanes after \\S+ m?s`,
      ),
    )
    await page.getByRole('img', { name: `worker ${survivor}, holds 72` }).waitFor()
    expect(page.url()).toBe(`${host.url}/workers`)
    expect(seen).toEqual([])
    await context.close()
    await host.close()
    await stage.close()
  })

  test('signs in by the link of the terminal, once', async () => {
    const database = await createTestDatabase()
    const command = new Command('.', ['dashboard', '--port', '0', '--database', database.url])
    await command.shows(/\/sign-in\?once=/)
    const link = /http:\S+/.exec(command.stdout + command.stderr)![0]
    const context = await openWindow(browser)
    const page = await context.newPage()
    await page.goto(link)
    await page.getByRole('heading', { name: 'Overview' }).waitFor()
    // Nothing of the link stays where others could read it.
    expect(page.url()).not.toContain('once')
    await page.getByRole('link', { name: 'Workers' }).click()
    await page.getByText('No such worker lives.').waitFor()
    const another = await openWindow(browser)
    const stranger = await another.newPage()
    await stranger.goto(link)
    expect(await stranger.locator('nav').count()).toBe(0)
    await another.close()
    await context.close()
    command.process.kill('SIGTERM')
    await command.done
    await database.drop()
  })

  describe('under attack', () => {
    const ada = { name: 'ada', access: 'operate' } as const
    let database: TestDatabase
    let host: Host
    let worker: number
    beforeAll(async () => {
      database = await createTestDatabase()
      // As behind a proxy that lets in this browser, whatever page it comes from: only what the dashboard does by itself counts.
      host = await Host.open({
        database: database.url,
        authorize: () => ada,
        showPayload: ({ payload }) => String(payload),
      })
      const [row] = await database.query<{ id: number }>(
        `insert into twinbox.worker (kind, consumer, host, pid, version, application, topics)
        values ('claimer', 'billing', $1, 1, $1, $1, array[$1]) returning id`,
        [hostile],
      )
      worker = row!.id
      await scribble(database, worker)
    })
    afterAll(async () => {
      await host.close()
      await database.drop()
    })

    test('scripts in topics, keys, errors, headers and names are text', async () => {
      const context = await openWindow(browser)
      const page = await context.newPage()
      const seen = watchPage(page, host.origin)
      const faults: string[] = []
      let shown = 0
      const list = [
        ...(await pages(database)),
        { name: 'messages found', path: `/messages?${new URLSearchParams({ key: hostile }).toString()}` },
      ]
      for (const { name, path } of list) {
        await page.goto(`${host.url}${path}`)
        // Whoever opens what a page folds away sees it too.
        await page.evaluate(() => {
          const { document } = globalThis as unknown as Styled
          for (const each of document.querySelectorAll('details')) each.open = true
        })
        const made = await page.locator('[data-attack]').count()
        const ran = await page.evaluate(() => 'attacked' in globalThis)
        if (made > 0 || ran || seen.length > 0)
          faults.push(`${name}: ${made} elements, ran: ${ran}, ${seen.splice(0).join('; ')}`)
        if ((await page.locator('main').innerText()).includes('<b data-attack')) shown++
      }
      expect(faults).toEqual([])
      // Otherwise nothing would have been attacked.
      expect(shown).toBeGreaterThanOrEqual(7)
      await context.close()
    })

    test('a form or JSON of another site changes nothing, even with a token, nor does one without', async () => {
      const context = await openWindow(browser)
      const page = await context.newPage()
      await page.goto(`${host.url}/workers`)
      const token = (await page.locator('input[name="token"]').first().getAttribute('value'))!
      const target = `${host.url}/workers/evict`
      const site = await foreignSite(`<!doctype html><title>win</title>
        <form method="post" action="${target}"><input name="id" value="${worker}"><input name="token" value="${token}"><button>Win</button></form>`)
      await page.goto(site.url)
      const [answer] = await Promise.all([
        page.waitForResponse((response) => response.url() === target),
        page.getByRole('button').click(),
      ])
      expect(answer.status()).toBe(403)
      await page.goto(site.url)
      const refused = await page.evaluate(
        async ([url, id, stolen]) => {
          const post = (type: string, mode: 'cors' | 'no-cors', body: string) =>
            fetch(url, {
              method: 'POST',
              mode,
              body,
              headers: { 'content-type': type },
              credentials: 'include',
            }).then(
              ({ type: kind, status }) => `${kind} ${status}`,
              () => 'failed',
            )
          const json = JSON.stringify({ id, token: stolen })
          return [
            await post('application/json', 'cors', json),
            await post('text/plain', 'no-cors', json),
            await post('application/x-www-form-urlencoded', 'no-cors', `id=${id}&token=${stolen}`),
          ]
        },
        [target, String(worker), token] as const,
      )
      // Of the first, the browser asks whether it may, and is told that it may not.
      expect(refused).toEqual(['failed', 'failed', 'failed'])
      expect(host.answers.filter((line) => line.startsWith('POST'))).toEqual(
        Array(3).fill('POST /ops/workers/evict 403'),
      )
      await page.goto(`${host.url}/workers`)
      const own = await page.evaluate(
        async ([url, id]) => {
          const post = async (body: string, type: string) =>
            (await fetch(url, { method: 'POST', body, headers: { 'content-type': type } })).status
          const { document } = globalThis as unknown as Styled
          const mine = document.querySelector('input[name="token"]')!.value
          return [
            await post(`id=${id}`, 'application/x-www-form-urlencoded'),
            await post(`id=${id}&token=x`, 'application/x-www-form-urlencoded'),
            await post(JSON.stringify({ id, token: mine }), 'application/json'),
          ]
        },
        [target, String(worker)] as const,
      )
      expect(own).toEqual([403, 403, 415])
      expect(await database.query('select from twinbox.worker where ended_at is null')).toHaveLength(1)
      await context.close()
      await site.close()
    })

    test('no other site shows it in a frame', async () => {
      const context = await openWindow(browser)
      const page = await context.newPage()
      const refusals: string[] = []
      page.on('console', (message) => refusals.push(message.text()))
      const site = await foreignSite(
        `<!doctype html><title>frame</title><iframe src="${host.url}/workers"></iframe>`,
      )
      await page.goto(site.url)
      await until(() => refusals.some((line) => line.includes('frame-ancestors')))
      expect(await page.frames()[1]!.locator('nav').count()).toBe(0)
      await context.close()
      await site.close()
    })

    test('nobody is let in whom authorize does not know', async () => {
      const closed = await Host.open({ database: database.url })
      for (const { path } of await pages(database)) {
        const response = await fetch(`${closed.url}${path}`)
        expect([path, response.status]).toEqual([path, 403])
        expect(await response.text()).not.toContain('<nav')
      }
      await closed.close()
    })

    // What the attacks try for, to see that it would have worked.
    test('a worker that is evicted is gone', async () => {
      expect(await evictWorkers(database.url, [worker])).toMatchObject({ evicted: [worker] })
    })
  })
})

/** What strangers write where they may write. */
const hostile = `<b data-attack>x</b><img src=x data-attack onerror="attacked=1"><script>attacked=1</script>"' onclick="attacked=1`

/** Writes it into all that a page shows. */
async function scribble(database: TestDatabase, worker: number): Promise<void> {
  const errors = JSON.stringify([{ attempt: 1, at: new Date().toISOString(), error: hostile }])
  const headers = JSON.stringify({ [hostile]: hostile })
  for (const statement of [
    `insert into twinbox.dead_letter (consumer, seq, id, topic, key, headers, payload, attempt, reason, errors)
      values ('billing', 1, gen_random_uuid(), $1, $1, $2, to_json($1::text), 1, $1, $3)`,
    `insert into twinbox.inbox (consumer, lane, seq, id, topic, key, headers, payload, attempt, errors) overriding system value
      values ('billing', twinbox.lane_of($1), 2, gen_random_uuid(), $1, $1, $2, to_json($1::text), 1, $3)`,
    `insert into twinbox.parked (consumer, key, lane, reason, until) values ('billing', $1, twinbox.lane_of($1), $1, 'infinity')`,
    `insert into twinbox.audit (action, who, why, consumer, topic, key, reason) values ('redrive', $1, $1, 'billing', $1, $1, $1)`,
    `insert into twinbox.subscription (consumer, pattern, broker) values ('billing', $1, $1)`,
    `insert into twinbox.schedule (name, cron, time_zone, catch_up, topic, key, payload, next_at) values ($1, $1, $1, 'one', $1, $1, '1', now())`,
    `insert into twinbox.lane (consumer, lane, holder, since, lease_until) values ('billing', 1, ${worker}, now(), 'infinity')`,
    `update twinbox.worker set stuck_topic = $1, stuck_since = now(), broker_error = $1, broker_down_since = now()`,
  ]) {
    const values = [hostile, headers, errors].filter((_, index) => statement.includes(`$${index + 1}`))
    await database.query(statement, values)
  }
}

/** What pages have, as far as it is used here: this program is no browser's. */
interface Styled {
  getComputedStyle(element: object): { readonly backgroundColor: string }
  readonly document: {
    readonly body: object
    readonly activeElement: { readonly id: string } | null
    querySelector(selector: string): { readonly value: string } | null
    querySelectorAll(selector: string): Iterable<{ open: boolean }>
  }
}
