import { rounded } from '../figures.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atMost, median, ratio, ratioOf, runRace, type Goal, type Laps } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

const peer = 'graphile-worker'

export const latency: Scenario<RaceOptions> = {
  name: 'latency',
  does: 'Measures the time from a publish to its handler, in another process, while nothing else goes on.',
  addOptions: (command) => addRaceOptions(command, { messages: 350, batchSize: 100, concurrency: 10 }),
  run(stage, options) {
    const task = taskOf({ ...options, processes: 2 }, { keys: 'none' })
    if (options.quick === true) Object.assign(task, { messages: 10 })
    return runRace(stage, {
      ...options,
      runners: [
        { name: 'twinbox', entrant: 'twinbox latency', task },
        { name: peer, entrant: `${peer} latency`, task },
      ],
      goals: (laps) => [
        below(laps, 'p50', 5),
        below(laps, 'p99', 20),
        atMost(
          `p50 of ${peer}'s`,
          ratio(laps, 'twinbox', peer, ({ took }) => took.p50 ?? Infinity),
          1.1,
        ),
      ],
      bound: (laps) =>
        `two hops. A message goes through the outbox and the inbox, woken for at each, where ${peer} wakes whoever works on the one table: ${p50(laps, 'twinbox')} ms beside ${p50(laps, peer)}.`,
      remarks: [
        'The time runs from right before the transaction is begun, so that its commit is in it; the pauses between two ' +
          'messages are 50 to 150 ms.',
      ],
    })
  },
}

function below(laps: Laps, of: 'p50' | 'p99', ms: number): Goal {
  const found = ratioOf(laps.get('twinbox')!.map(({ took }) => (took[of] ?? Infinity) / ms))
  return { says: `${of} at most ${ms} ms (as a share of it)`, met: found.median <= 1, found }
}

const p50 = (laps: Laps, name: string): number =>
  rounded(median((laps.get(name) ?? []).map(({ took }) => took.p50 ?? Infinity)))
