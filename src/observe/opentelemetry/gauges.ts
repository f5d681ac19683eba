import type { MeterProvider, Observable } from '@opentelemetry/api'
import { openDatabase, type DatabaseInput } from '../../database/database.ts'
import { gaugeNames, readGauges } from '../gauges.ts'
import type { MetricName } from '../metrics.ts'
import { metrics } from '../metrics.ts'
import { refuseUnknown } from '../../base/options.ts'
import { meterOf, nameOf, toAttributes } from './meters.ts'

export interface ObserveOptions {
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /** @default the global one, as your SDK registers it */
  readonly meterProvider?: MeterProvider | undefined
}

/**
 * Reports what waits, who works and what is held up as OpenTelemetry gauges, read from the database whenever your SDK
 * collects. One process is enough: the figures are those of the whole schema. Call what it returns to stop.
 * @throws OptionError
 */
export function observeDatabase(input: DatabaseInput, options: ObserveOptions = {}): () => Promise<void> {
  refuseUnknown('observeDatabase', options, ['schema', 'meterProvider'])
  const { database, owned } = openDatabase(input, { schema: options.schema, poolSize: 1 })
  const meter = meterOf(options.meterProvider)
  const instruments = new Map<MetricName, Observable>(
    gaugeNames.map((metric) => {
      const { name, unit } = nameOf(metric)
      return [metric, meter.createObservableGauge(name, { unit, description: metrics[metric].help })]
    }),
  )
  const all = [...instruments.values()]
  const observe: Parameters<typeof meter.addBatchObservableCallback>[0] = async (result) => {
    for (const { name, value, labels } of await readGauges(database)) {
      result.observe(instruments.get(name)!, value, toAttributes(name, labels))
    }
  }
  meter.addBatchObservableCallback(observe, all)
  return async () => {
    meter.removeBatchObservableCallback(observe, all)
    if (owned) await database.close()
  }
}
