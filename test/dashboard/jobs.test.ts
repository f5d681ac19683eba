import { expect, test } from 'vitest'
import { Jobs, type Job, type Watch } from '../../src/dashboard/jobs.ts'
import { until } from '../support/until.ts'

const what = { title: 'Redrive', by: 'ann', reason: 'fixed', expected: 10 }

/** Work that ends when the test says so, or when it is stopped. */
function work() {
  let resolve!: (said: string) => void
  const promise = new Promise<string>((ended) => (resolve = ended))
  let watch: Watch | undefined
  return {
    run: (given: Watch): Promise<string> => {
      watch = given
      given.signal.addEventListener('abort', () => resolve('as far as it went'))
      return promise
    },
    resolve,
    progress: (done: number) => watch!.onProgress(done),
    get signal() {
      return watch!.signal
    },
  }
}

test('a job tells how far it is while it runs, and what has come of it', async () => {
  const jobs = new Jobs(() => new Date())
  const one = work()
  const { id } = jobs.start(what, one.run)
  expect(jobs.find(id)).toMatchObject({ ...what, state: 'running', done: 0, said: null, endedAt: null })
  one.progress(7)
  expect(jobs.find(id)).toMatchObject({ state: 'running', done: 7 })
  one.resolve('Redriven: 10.')
  await until(() => jobs.find(id)!.state !== 'running')
  expect(jobs.find(id)).toMatchObject({
    ...{ state: 'done', done: 7, said: 'Redriven: 10.', endedAt: expect.any(Date) },
  })
  expect(jobs.stop(id)).toBe(false)
  expect(jobs.find('other')).toBeNull()
})

test('a job that is stopped ends after its batch, and says so until then', async () => {
  const jobs = new Jobs(() => new Date())
  const one = work()
  const { id } = jobs.start(what, async (watch) => {
    await one.run(watch)
    return 'Redriven: 5.'
  })
  expect(jobs.stop(id)).toBe(true)
  expect(one.signal.aborted).toBe(true)
  expect(jobs.find(id)!.state).toBe('stopping')
  await until(() => jobs.find(id)!.endedAt !== null)
  expect(jobs.find(id)).toMatchObject({ state: 'stopped', said: 'Redriven: 5.' })
})

test('a job that fails says why; one that ends by its signal was stopped', async () => {
  const jobs = new Jobs(() => new Date())
  const failing = jobs.start(what, () => Promise.reject(new TypeError('no such thing')))
  // Before it has begun to wait for anything.
  const atOnce = jobs.start(what, () => {
    throw new TypeError('no such thing')
  })
  const ending = jobs.start(
    what,
    ({ signal }) =>
      new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error))),
  )
  jobs.stop(ending.id)
  await until(() => jobs.all.every(({ endedAt }) => endedAt !== null))
  expect(jobs.find(atOnce.id)).toMatchObject({ state: 'failed' })
  expect(jobs.find(failing.id)).toMatchObject({
    state: 'failed',
    said: expect.stringContaining('no such thing'),
  })
  expect(jobs.find(ending.id)).toMatchObject({ state: 'stopped', said: '' })
})

test('three run at a time, and a fourth is refused before it begins', async () => {
  const jobs = new Jobs(() => new Date())
  const works = [work(), work(), work()]
  for (const each of works) jobs.start(what, each.run)
  let began = false
  const fourth = (): Job =>
    jobs.start(what, () => {
      began = true
      return Promise.resolve('')
    })
  expect(fourth).toThrow('3 jobs are running')
  expect([began, jobs.all.length]).toEqual([false, 3])
  works[0]!.resolve('')
  await until(() => jobs.all.some(({ endedAt }) => endedAt !== null))
  fourth()
  expect(began).toBe(true)
  await jobs.close()
})

test('those that have ended are forgotten in the end, the oldest first, and none that runs', async () => {
  const jobs = new Jobs(() => new Date())
  const long = work()
  const { id } = jobs.start(what, long.run)
  for (let count = 0; count < 60; count++) {
    const each = jobs.start({ ...what, title: `Job ${count}` }, () => Promise.resolve('done'))
    await until(() => jobs.find(each.id)?.state === 'done')
  }
  expect(jobs.all.map(({ title }) => title)).toEqual([
    ...Array.from({ length: 50 }, (_, index) => `Job ${59 - index}`),
    'Redrive',
  ])
  expect(jobs.find(id)!.state).toBe('running')
  await jobs.close()
})

test('closing stops all and waits for them', async () => {
  const jobs = new Jobs(() => new Date())
  const one = work()
  let ended = false
  jobs.start(what, async (watch) => {
    await one.run(watch)
    ended = true
    return ''
  })
  await jobs.close()
  expect([ended, jobs.all[0]!.state]).toEqual([true, 'stopped'])
})
