import axe from 'axe-core'
import { chromium as playwright, type Browser, type BrowserContext, type Page } from 'playwright-core'
import type { Chromium } from './servers/chromium.ts'

/** How somebody looks at a page. */
export interface Look {
  /** Of the window, in pixels. */
  readonly width: number
  readonly theme: 'light' | 'dark'
}

export const widths = [360, 1440] as const
export const themes = ['light', 'dark'] as const
/** Every way in which a page has to be good to look at. */
export const looks: readonly Look[] = widths.flatMap((width) => themes.map((theme) => ({ width, theme })))

/** A browser without a screen. */
export function launch({ program }: Chromium): Promise<Browser> {
  // Tests run as root on CI, and Chromium has no sandbox for root.
  return playwright.launch({ executablePath: program, chromiumSandbox: false })
}

/** A window of somebody who has been nowhere yet: no cookies, nothing stored. */
export function openWindow(
  browser: Browser,
  look: Look = { width: 1440, theme: 'light' },
  options: Parameters<Browser['newContext']>[0] = {},
): Promise<BrowserContext> {
  return browser.newContext({
    ...{ viewport: sizeOf(look), colorScheme: look.theme, reducedMotion: 'reduce' },
    ...{ locale: 'en-GB', timezoneId: 'Europe/Berlin' },
    ...options,
  })
}

const sizeOf = ({ width }: Look) => ({ width, height: width < 600 ? 780 : 900 })

/** Looks at a page that is there in another way. */
export async function lookAt(page: Page, look: Look): Promise<void> {
  await page.setViewportSize(sizeOf(look))
  await page.emulateMedia({ colorScheme: look.theme })
}

/** What a screen reader and people with weak eyes would stumble over, a line for each rule that is broken. */
export async function stumbles(page: Page): Promise<string[]> {
  // Through the debugger, since the page's policy lets in no script but its own.
  if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(axe.source)
  const violations = await page.evaluate(async () => {
    const run = (globalThis as unknown as { axe: typeof axe }).axe
    return (await run.run({ resultTypes: ['violations'], iframes: false })).violations
  })
  return violations.map(({ id, help, nodes }) => {
    const [{ html, failureSummary = '' } = { html: '' }] = nodes
    const why = failureSummary.split('\n').slice(1).join('; ').trim()
    return `${id} (${help}), ${nodes.length} times: ${html.slice(0, 200)} ${why}`
  })
}

/** What a page does behind its reader's back: errors of scripts, what its policy refuses, and requests that fail or go elsewhere. */
export function watchPage(page: Page, origin: string): string[] {
  const seen: string[] = []
  page.on('pageerror', (error) => seen.push(`error: ${error.message}`))
  page.on('console', (message) => {
    if (message.type() === 'error') seen.push(`console: ${message.text()}`)
  })
  page.on('dialog', (dialog) => {
    seen.push(`dialog: ${dialog.message()}`)
    void dialog.dismiss()
  })
  page.on('request', (request) => {
    const url = request.url()
    if (!url.startsWith(`${origin}/`) && !/^(data|about|blob):/.test(url)) seen.push(`elsewhere: ${url}`)
  })
  return seen
}

/** By how many pixels a page is wider than its window. */
export const overhang = (page: Page): Promise<number> =>
  page.evaluate(() => {
    const { scrollWidth, clientWidth } = (
      globalThis as unknown as { document: { documentElement: Measures } }
    ).document.documentElement
    return scrollWidth - clientWidth
  })

interface Measures {
  readonly scrollWidth: number
  readonly clientWidth: number
}
