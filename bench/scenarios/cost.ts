import { setTimeout as sleep } from 'node:timers/promises'
import { rounded } from '../figures.ts'
import type { Task } from '../race/entrant.ts'
import { Grounds } from '../race/grounds.ts'
import { Racers, prepareGround, type Runner } from '../race/lap.ts'
import { Meter } from '../race/meter.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atMost, plusNoise, ratio, ratioOf, runRace, type Goal } from '../race/race.ts'
import type { Scenario, Stage } from '../scenario.ts'

const peers = ['graphile-worker', 'pg-boss', 'status'] as const
const inFlight = 1000
/** Idle claimers that share a process. */
const many = 32

interface Idle {
  readonly cpuPercent: number
  readonly serverPercent: number | null
  readonly statementsPerS: number
}

export const cost: Scenario<RaceOptions> = {
  name: 'cost',
  does: 'What a message costs from publish to the end, what it takes in memory, and what an idle worker costs.',
  addOptions: (command) => addRaceOptions(command, { messages: 50_000 }),
  async run(stage, options) {
    const task = taskOf(options, { keys: 'none', processes: 1 })
    const idleMs = options.quick === true ? 500 : 15_000
    const remarks: string[] = []
    const idles = new Map<string, Idle>()
    const grounds = new Grounds(stage.scratch)
    stage.cleanUp.push(() => grounds.dropAll())
    for (const name of ['twinbox', ...peers]) {
      if (options.only !== undefined && !options.only.includes(name)) continue
      const runner = { name, entrant: `${name} claim`, task: { ...task, concurrency: 10 } }
      const idle = await measureIdle(stage, grounds, runner, idleMs)
      idles.set(name, idle)
      const memory = name === 'status' ? null : await measureMemory(stage, grounds, runner)
      remarks.push(
        `${name}: idle, a worker takes ${idle.cpuPercent} % of a core, its server ${idle.serverPercent ?? '-'} %, with ` +
          `${idle.statementsPerS} transactions/s` +
          (memory === null ? '' : `; 1,000 messages in flight take ${rounded(memory / 1024 / 1024, 2)} MiB`),
      )
    }
    const idle = idles.get('twinbox')
    const own: Runner = {
      name: 'twinbox',
      entrant: 'twinbox claim',
      task: { ...task, concurrency: 10, claimers: many },
    }
    const crowd = idle === undefined ? undefined : await measureIdle(stage, grounds, own, idleMs)
    if (crowd !== undefined) {
      remarks.push(
        `twinbox: ${many} idle claimers of one process take ${crowd.cpuPercent} % of a core, their server ${crowd.serverPercent ?? '-'} %, ` +
          `with ${crowd.statementsPerS} transactions/s in all`,
      )
    }
    return runRace(stage, {
      ...options,
      runners: ['twinbox', ...peers].map((name) => ({ name, entrant: `${name} cycle`, task })),
      goals: (laps): Goal[] => {
        const wal = (peer: string) => ratio(laps, 'twinbox', peer, ({ walBytes }) => walBytes)
        return [
          atMost('WAL of the status-column outbox', wal('status'), plusNoise(0.24)),
          atMost("WAL of graphile-worker's", wal('graphile-worker'), plusNoise(0.33)),
          ...(idle === undefined
            ? []
            : [
                {
                  says: 'idle CPU below 1 %',
                  met: idle.cpuPercent < 1,
                  found: ratioOf([idle.cpuPercent]),
                },
                {
                  says: 'idle, at most 2 statements per second and worker',
                  met: idle.statementsPerS <= 2,
                  found: ratioOf([idle.statementsPerS]),
                },
                atMost(
                  `CPU of ${many} idle claimers in one process: one`,
                  ratioOf([crowd!.cpuPercent / idle.cpuPercent]),
                  3,
                ),
              ]),
        ]
      },
      bound:
        idle === undefined
          ? 'see the table.'
          : `the ${idle.statementsPerS} statements per second of an idle worker: its heartbeat with a look at its peers, and what is due, in its lanes and in its partitions. A statement that finds everything cold takes 1 to 2 ms of the client.`,
      remarks: [
        'The life of a message: published, sent or handled, gone. Of pg-boss it does not end there: finished jobs are kept, ' +
          'and moved and deleted later.',
        ...remarks,
      ],
    })
  },
}

/** A worker of an empty table. */
async function measureIdle(stage: Stage, grounds: Grounds, runner: Runner, ms: number): Promise<Idle> {
  const empty: Task = { ...runner.task, messages: 0 }
  const ground = await prepareGround(grounds, { ...runner, task: empty })
  const racers = new Racers(stage)
  try {
    await racers.hire({ ...runner, task: empty }, ground.url)
    racers.tell({ type: 'go' })
    // Starting is not idling, and eight seconds after it V8 still tidies up behind it.
    await sleep(ms)
    const before = await racers.account()
    const meter = await Meter.start(stage.scratch, ground.name)
    await sleep(ms)
    const { cpuMs } = await racers.account()
    const { serverCpuMs, wallMs } = await meter.stop()
    await racers.finish()
    await racers.dismiss()
    await sleep(200)
    const { commits } = await meter.counts()
    const percent = (spent: number): number => rounded((spent / wallMs) * 100, 2)
    return {
      cpuPercent: percent(cpuMs - before.cpuMs),
      serverPercent: serverCpuMs === null ? null : percent(serverCpuMs),
      statementsPerS: rounded((commits / wallMs) * 1000),
    }
  } finally {
    await racers.dismiss()
    await grounds.drop(ground)
  }
}

/** What a process has more when it has a thousand messages in flight, in bytes. */
async function measureMemory(stage: Stage, grounds: Grounds, runner: Runner): Promise<number> {
  const held: Runner = {
    ...runner,
    task: { ...runner.task, messages: inFlight, concurrency: inFlight, batchSize: inFlight, handler: 'hold' },
  }
  const ground = await prepareGround(grounds, held)
  const racers = new Racers(stage)
  try {
    await racers.hire(held, ground.url)
    const before = await racers.account(true)
    racers.tell({ type: 'go' })
    if (!(await racers.done(inFlight)))
      throw new Error(`${runner.name} did not take ${inFlight} messages in flight.`)
    const { memoryBytes } = await racers.account(true)
    return memoryBytes - before.memoryBytes
  } finally {
    await racers.dismiss()
    await grounds.drop(ground)
  }
}
