import { startSharing } from './shared.ts'

/** Once per run. Nothing is found, started or compiled before a test file asks for it. */
export default async function setup(): Promise<(() => Promise<void>) | undefined> {
  // Every project of the configuration asks for the set-up.
  return process.env['TWINBOX_TEST_SHARED'] === undefined ? startSharing() : undefined
}
