import { afterAll, describe, expect, it } from 'vitest'

/** A service that a suite needs: there, or the reason why not. */
export type Found<Service> = Service | Missing

export interface Missing {
  readonly missing: string
}

export const isMissing = (found: object): found is Missing => 'missing' in found

/**
 * A suite that needs a service. Without it the suite is skipped by name and reason; if `TWINBOX_TEST_REQUIRE`, a list
 * with commas, names the service, it fails instead: on CI a service that did not start must not look like success.
 * After the suite the service is stopped, if it can be.
 */
export function describeWith<Service extends object & { readonly stop?: () => Promise<void> }>(
  service: string,
  found: Found<Service>,
  name: string,
  suite: (service: Service) => void,
): void {
  describe(`${name} (${service})`, () => {
    if (isMissing(found)) return standIn(service, found.missing)
    afterAll(() => found.stop?.())
    suite(found)
  })
}

function standIn(service: string, reason: string): void {
  it.skipIf(!isRequired(service))(`needs ${service}: ${reason}`, () => {
    expect.fail(`TWINBOX_TEST_REQUIRE names ${service}, but it is not there: ${reason}`)
  })
}

/** Whether `TWINBOX_TEST_REQUIRE` names it. */
export function isRequired(service: string): boolean {
  const names = (process.env['TWINBOX_TEST_REQUIRE'] ?? '').split(',')
  return names.some((name) => name.trim() === service)
}
