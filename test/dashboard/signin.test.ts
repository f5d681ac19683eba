import { afterEach, describe, expect, test, vi } from 'vitest'
import { SignIn, type Password } from '../../src/dashboard/signin.ts'

/** The sign-in of the dashboard that no application has mounted. */

const origin = 'http://127.0.0.1:8460'
const password: Password = { user: 'ops', password: 'correct horse battery' }
const make = (of: Password | null) => new SignIn({ name: 'ada@host', access: 'operate' }, of, '')
const open = (signIn: SignIn, path: string, address = '::1') =>
  signIn.answer(new Request(`${origin}${path}`, { headers: { accept: 'text/html' } }), address)
const cookieOf = (response: Response) => response.headers.get('set-cookie')!.split(';')[0]!
const asks = (cookie: string) => new Request(`${origin}/`, { headers: { cookie, accept: 'text/html' } })
const enter = (
  signIn: SignIn,
  fields: Record<string, string>,
  address = '::1',
  headers: Record<string, string> = { origin },
) =>
  signIn.answer(
    new Request(`${origin}/sign-in`, { method: 'POST', body: new URLSearchParams(fields), headers }),
    address,
  )

afterEach(() => void vi.useRealTimers())

describe('the link', () => {
  test('signs in one browser, once, and leaves no secret in its URL', async () => {
    const signIn = make(null)
    const link = signIn.link()
    const response = (await open(signIn, link))!
    expect([response.status, response.headers.get('location')]).toEqual([303, '/'])
    expect(response.headers.get('set-cookie')).toMatch(/SameSite=Lax; HttpOnly$/)
    expect(signIn.authorize(asks(cookieOf(response)))).toEqual({ name: 'ada@host', access: 'operate' })
    expect((await open(signIn, link))!.status).toBe(403)
    expect(signIn.authorize(asks('twinbox_session=made-up'))).toBeNull()
  })

  test('works for a quarter of an hour, and a session for twelve hours', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    const signIn = make(null)
    const old = signIn.link()
    vi.setSystemTime(Date.now() + 15 * 60_000 + 1)
    expect((await open(signIn, old))!.status).toBe(403)
    const cookie = cookieOf((await open(signIn, signIn.link()))!)
    vi.setSystemTime(Date.now() + 12 * 3_600_000 + 1)
    expect(signIn.authorize(asks(cookie))).toBeNull()
  })

  test('is asked for by every page, and by no asset', async () => {
    const signIn = make(null)
    expect((await open(signIn, '/workers'))!.headers.get('location')).toBe('/sign-in')
    expect(await open(signIn, '/assets/x/style.css')).toBeNull()
    const page = await (await open(signIn, '/sign-in'))!.text()
    expect(page).toContain('Open the link')
    expect(page).not.toContain('name="password"')
    expect((await enter(signIn, { user: '', password: '' }))!.status).toBe(403)
  })
})

describe('user and password', () => {
  test('sign in if both fit', async () => {
    const signIn = make(password)
    expect((await enter(signIn, { user: 'ops', password: 'wrong' }))!.status).toBe(403)
    expect((await enter(signIn, { user: 'root', password: password.password }))!.status).toBe(403)
    const response = (await enter(signIn, { ...password }))!
    expect(response.status).toBe(303)
    expect(signIn.authorize(asks(cookieOf(response)))).toEqual({ name: 'ops', access: 'operate' })
  })

  test('are taken from no other site', async () => {
    const response = await enter(make(password), { ...password }, '::1', { origin: 'https://evil.example' })
    expect([response!.status, response!.headers.get('set-cookie')]).toEqual([403, null])
  })

  test('are not listened to after five tries, for a minute, also all at once', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    const signIn = make(password)
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => enter(signIn, { user: 'ops', password: 'guess' })),
    )
    expect(answers.map((each) => each!.status).toSorted((a, b) => a - b)).toEqual([
      403, 403, 403, 403, 403, 429, 429, 429,
    ])
    expect((await enter(signIn, { ...password }))!.status).toBe(429)
    // Somebody else still may.
    expect((await enter(signIn, { ...password }, '10.0.0.1'))!.status).toBe(303)
    vi.setSystemTime(Date.now() + 60_001)
    expect((await enter(signIn, { ...password }))!.status).toBe(303)
  })
})
