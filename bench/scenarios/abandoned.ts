import { setTimeout as sleep } from 'node:timers/promises'
import { defaults } from '../faults.ts'
import { now, rounded, spread, table } from '../figures.ts'
import { faultsOf, Ledger, type Account } from '../ledger.ts'
import { count, type Common, type Scenario, type Stage } from '../scenario.ts'

interface Options extends Common {
  readonly rows: number
  readonly rounds: number
}

interface Round {
  readonly handedOverMs: number
  readonly largestBatch: number
  readonly publishBefore: readonly number[]
  readonly publishDuring: readonly number[]
  readonly account: Account
}

const goalMs = 5000
const pauseMs = 20
const chunk = 1000

/**
 * One death leaves thousands of rows behind. Survivors take them batch by batch, and publishers do not notice.
 *
 * A claimer holds no more than it handles in a moment, so one that held thousands handled them in batches; so do these.
 */
export const abandoned: Scenario<Options> = {
  name: 'abandoned',
  does: 'Kills a claimer that holds thousands of rows and measures how long it takes until survivors have them all.',
  addOptions(command) {
    command
      .option('--rows <number>', 'how many rows it holds', count(1, 1_000_000), 10_000)
      .option('-r, --rounds <number>', 'how often', count(1, 1000), 5)
  },
  async run(stage, { rows, rounds }) {
    const ledger = await Ledger.open(stage.scratch)
    const played: Round[] = []
    for (let round = 1; round <= rounds; round++) {
      const last = await play(stage, ledger, rows)
      stage.say(`round ${round} of ${rounds}: ${last.handedOverMs} ms`)
      played.push(last)
    }
    const problems = played.flatMap(({ account }) => faultsOf(account))
    const handedOver = spread(played.map(({ handedOverMs }) => handedOverMs))
    const before = spread(played.flatMap(({ publishBefore }) => publishBefore))
    const during = spread(played.flatMap(({ publishDuring }) => publishDuring))
    const largestBatch = Math.max(...played.map((round) => round.largestBatch))
    return {
      text: [
        `${rows} rows of a claimer that was killed; milliseconds`,
        table(
          ['', 'p50', 'p99', 'max', 'samples'],
          Object.entries({
            'all handed over': handedOver,
            'publish before': before,
            'publish during': during,
          }).map(([name, { p50, p99, max, samples }]) => [name, p50, p99, max, samples]),
        ),
        `largest batch: ${largestBatch} rows`,
        ...problems,
      ].join('\n'),
      result: {
        valid: problems.length === 0,
        met: problems.length === 0 && handedOver.max! < goalMs,
        goal: `${rows} rows handed over in under ${goalMs} ms`,
        rows,
        handedOver,
        publish: { before, during },
        largestBatch,
        problems,
      },
    }
  },
}

async function play({ scratch, crew }: Stage, ledger: Ledger, rows: number): Promise<Round> {
  await crew.employ('relay', { options: defaults })
  const holder = await crew.employ('claimer', {
    options: { ...defaults, concurrency: 1 },
    handleMs: 3_600_000,
  })
  for (let left = rows; left > 0; left -= chunk)
    await ledger.publish(Array<null>(Math.min(left, chunk)).fill(null))
  await scratch.until('Waiting for the inbox', `select count(*) = ${rows} as done from twinbox.inbox`)
  // As if it had come to hold them all: by itself it claims ahead only what it handles in a moment.
  await scratch.query(
    `update twinbox.inbox set holder = $1, lease_until = 'infinity', fence = fence + 1, attempt = attempt + 1`,
    [holder.workerId],
  )
  for (let survivors = 0; survivors < 3; survivors++) {
    await crew.employ('claimer', { options: defaults, batchSize: 100 })
  }

  const publishBefore: number[] = []
  const publishDuring: number[] = []
  const publish = async (into: number[]): Promise<void> => {
    const at = now()
    await ledger.publish([null])
    into.push(now() - at)
    await sleep(pauseMs)
  }
  while (publishBefore.length < 100) await publish(publishBefore)
  const killedAt = now()
  await crew.kill(holder)
  let handedOverMs: number | null = null
  const watched = scratch
    .until('Handing over', `select count(*) = 0 as done from twinbox.inbox where holder = ${holder.workerId}`)
    .then(() => (handedOverMs = rounded(now() - killedAt)))
  while (handedOverMs === null) await publish(publishDuring)
  await watched
  await ledger.drained()
  const account = await ledger.audit()
  const batches = crew.told('takeover').map(({ event }) => event.rows)
  await crew.disband()
  await ledger.clear()
  return { handedOverMs, largestBatch: Math.max(...batches), publishBefore, publishDuring, account }
}
