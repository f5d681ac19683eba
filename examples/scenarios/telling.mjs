/** How the scenarios tell what happens, from all of their processes. */

const clear = process.stdout.isTTY ? '\r\x1b[K' : ''
// Processes that are started later inherit it.
const startedAt = Number((process.env['SCENARIO_STARTED_AT'] ??= String(Date.now())))
let shownAt = 0

/** Prints a line. @param {string} text */
export function say(text) {
  console.log(`${clear}${((Date.now() - startedAt) / 1000).toFixed(1).padStart(5)} s  ${text}`)
}

/** Shows how far it is: in one line of a terminal again and again, or else in a line a second. @param {string} text */
export function show(text) {
  if (clear) process.stdout.write(clear + text)
  else if (performance.now() > shownAt + 1000) {
    shownAt = performance.now()
    console.log(`         ${text}`)
  }
}

/**
 * Tells what a worker does about a death, and about what is away.
 * @param {string} who @returns {import('twinbox').OnEvent}
 */
export function tell(who) {
  const dead = new Set()
  return (event) => {
    if (event.type === 'worker_dead') say(`${who} finds that a worker has died, by its ${event.foundBy}`)
    if (event.type === 'takeover' && !dead.has(event.fromWorkerId)) {
      dead.add(event.fromWorkerId)
      say(`${who} goes on with work of the dead one (${event.strategy})`)
    }
    if (event.type === 'broker_down') say(`${who} has no broker: ${event.error.message}`)
    if (event.type === 'circuit_opened')
      say(`${who}: ${event.topic} pauses (${event.reason}), nothing is counted`)
    if (event.type === 'circuit_closed')
      say(`${who}: ${event.topic} goes on after ${Math.round(event.pausedMs)} ms`)
  }
}
