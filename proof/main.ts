/** What the command line asks the proof for: each runs to its end and says what came of it. */
export { runDemo } from './demo/demo.ts'
export { runScenario } from './demo/scenario.ts'
export { runSoak } from './soak/soak.ts'
