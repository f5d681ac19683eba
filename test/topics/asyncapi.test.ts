import { mkdir, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { type as ark } from 'arktype'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { defineTopics, type } from '../../src/index.ts'
import { toAsyncApi } from '../../src/topics/asyncapi.ts'
import { Command, type Output } from '../support/command.ts'
import { packageFolder } from '../support/packages.ts'

/** `twinbox topics`: the document is one that AsyncAPI's own parser takes. */

interface Parsed {
  readonly document?: {
    channels(): { all(): { address(): string }[] }
    operations(): { all(): { id(): string; action(): string }[] }
    messages(): { all(): { name(): string; payload(): { json(): unknown } | undefined }[] }
  }
  readonly diagnostics: readonly { severity: number; message: string; path: unknown[] }[]
}
let parse: (text: string) => Promise<Parsed>

/** Below the clone, so that a configuration finds what it imports. */
const folder = `.build/topics-${process.pid}`
beforeAll(async () => {
  const require = createRequire(join(await packageFolder('@asyncapi/parser', '3'), 'here.js'))
  const { Parser } = require('@asyncapi/parser') as { Parser: new () => { parse: typeof parse } }
  parse = (text) => new Parser().parse(text)
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'package.json'), '{ "name": "shop", "version": "1.2.3", "type": "module" }')
  await writeFile(
    join(folder, 'twinbox.config.ts'),
    `import { defineConfig, defineTopics, type } from 'twinbox'
    import { type as ark } from 'arktype'
    import * as v from 'valibot'
    import { z } from 'zod'
    const lines = z.array(z.object({ sku: z.string(), price: z.number().min(0) }))
    export default defineConfig({
      topics: defineTopics({
        'order.placed': {
          schema: z.object({ id: z.uuid(), lines, at: z.string().transform((text) => new Date(text)) }),
          key: ({ id }) => id,
          summary: 'An order was placed.',
          version: 2,
        },
        'order.paid': { schema: ark({ id: 'string', 'by?': "'card' | 'cash'" }) },
        'mail.due': {
          schema: v.object({ to: v.string() }),
          jsonSchema: { type: 'object', properties: { to: { type: 'string' } }, required: ['to'] },
        },
        'mail.sent': { schema: v.object({ to: v.string() }) },
        'any.thing': { schema: type<string>() },
      }),
      consumers: {
        billing: { topics: ['order.*'], handlers: { 'order.placed': ({ payload }) => payload.at } },
        'post-office': { topics: ['#'], handlers: {} },
      },
    })`,
  )
}, 180_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

const twinbox = (...args: string[]): Promise<Output> => new Command(folder, args).done
const errorsOf = ({ diagnostics }: Parsed): unknown[] => diagnostics.filter(({ severity }) => severity === 0)

test('the document of a configuration is valid, and says what each topic is', async () => {
  const { code, stdout, stderr } = await twinbox('topics', '--asyncapi')
  expect(code).toBe(0)
  const parsed = await parse(stdout)
  expect(errorsOf(parsed)).toEqual([])
  const { document } = parsed
  expect(
    document!
      .channels()
      .all()
      .map((channel) => channel.address()),
  ).toEqual([...['order.placed', 'order.paid', 'mail.due', 'mail.sent', 'any.thing']])
  const operations = document!.operations().all()
  expect(operations.filter((one) => one.action() === 'send')).toHaveLength(5)
  expect(operations.filter((one) => one.action() === 'receive').map((one) => one.id())).toEqual([
    ...['receive.order.placed.billing', 'receive.order.placed.post-office', 'receive.order.paid.billing'],
    ...['receive.order.paid.post-office', 'receive.mail.due.post-office', 'receive.mail.sent.post-office'],
    'receive.any.thing.post-office',
  ])
  const raw = JSON.parse(stdout) as {
    info: object
    channels: Record<
      string,
      { messages: Record<string, { payload?: { schema: object }; headers?: object; summary?: string }> }
    >
  }
  expect(raw.info).toEqual({ title: 'shop', version: '1.2.3' })
  const message = (topic: string) => raw.channels[topic]!.messages[topic]!
  // What travels: text, of which a handler gets a Date.
  expect(message('order.placed').payload!.schema).toMatchObject({
    properties: { at: { type: 'string' }, lines: { items: { properties: { price: { minimum: 0 } } } } },
  })
  expect(message('order.placed')).toMatchObject({
    summary: 'An order was placed.',
    headers: { properties: { dataversion: { const: '2' } } },
  })
  expect(message('order.paid').payload!.schema).toMatchObject({ required: ['id'] })
  expect(message('mail.due').payload!.schema).toMatchObject({ required: ['to'] })
  for (const topic of ['mail.sent', 'any.thing']) {
    expect(message(topic).payload).toBeUndefined()
    expect(stderr).toContain(`The payload of "${topic}" is not described`)
  }
  expect(stderr.split('\n').filter((line) => line !== '')).toHaveLength(2)
  expect((await twinbox('topics', '--asyncapi', '--title', 'Billing')).stdout).toContain('"title": "Billing"')
})

// Or the test above would be green whatever is printed.
test('the parser refuses what is none', async () => {
  const { document } = toAsyncApi(defineTopics({ t: { schema: z.string() } }), {
    ...{ title: 'x', version: '1', consumers: { c: ['t'] } },
  })
  expect(errorsOf(await parse(JSON.stringify(document)))).toEqual([])
  const broken = JSON.stringify(document).replace('#/channels/t/messages/t', '#/channels/t/messages/u')
  expect(errorsOf(await parse(broken)).length).toBeGreaterThan(0)
  const wrong = JSON.stringify(document).replace('"type":"string"', '"type":"strung"')
  expect(errorsOf(await parse(wrong)).length).toBeGreaterThan(0)
})

test('what a library cannot describe is left out by itself', () => {
  const topics = defineTopics({
    date: { schema: z.object({ at: z.date() }) },
    morph: { schema: ark('string').pipe((text) => text.length) },
    none: { schema: type() },
    good: { schema: z.string() },
  })
  const { document, undescribed } = toAsyncApi(topics, { title: 'x', version: '1', consumers: {} })
  expect(undescribed).toContain('date')
  expect(undescribed).toContain('none')
  expect(undescribed).not.toContain('good')
  expect(document).toHaveProperty(['channels', 'good', 'messages', 'good', 'payload'])
})

test('people get a table, programs JSON, and who defines none is told how', async () => {
  const { code, stdout } = await twinbox('topics')
  expect(code).toBe(0)
  expect(stdout.split('\n')[0]).toMatch(/^topic +version +schema +key +consumers +summary$/)
  expect(stdout).toMatch(/^order\.placed +2 +zod +yes +billing, post-office +An order was placed\.$/m)
  const { topics } = JSON.parse((await twinbox('topics', '--json')).stdout) as { topics: object[] }
  expect(topics).toHaveLength(5)
  expect(topics[2]).toEqual({
    ...{
      topic: 'mail.due',
      version: 1,
      schema: 'valibot',
      key: false,
      consumers: ['post-office'],
      summary: null,
    },
  })
  await mkdir(join(folder, 'empty'))
  const none = await new Command(join(folder, 'empty'), ['topics']).done
  expect(none.code).toBe(2)
  expect(none.stderr).toContain('defineTopics')
})
