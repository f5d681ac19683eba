import type { DiscoveryService } from '@nestjs/core'
import { OptionError } from '../../base/errors.ts'
import type { HandlerEntry } from '../../claimer/handlers.ts'
import { declarationsOf } from './decorators.ts'

type Wrapper = ReturnType<DiscoveryService['getProviders']>[number]
type Method = (message: unknown, context: unknown) => unknown

/** Handlers by topic, by consumer. */
export type FoundHandlers = ReadonlyMap<string, Readonly<Record<string, HandlerEntry<unknown>>>>

/**
 * Finds the methods with `@HandlesTopic` of all providers and controllers. They are called on the instance that Nest has made, with all
 * that was injected into it.
 * @throws OptionError for what nobody could call, or two would
 */
export function findHandlers(discovery: DiscoveryService, consumers: readonly string[]): FoundHandlers {
  const found = new Map(consumers.map((name) => [name, new Map<string, { entry: object; who: string }>()]))
  const seen = new Set<unknown>()
  for (const wrapper of [...discovery.getProviders(), ...discovery.getControllers()]) {
    const prototype = prototypeOf(wrapper)
    // One instance under two tokens is one.
    if (prototype === null || seen.has(wrapper.instance)) continue
    for (const { topic, method, options } of declarationsOf(prototype)) {
      const who = `${prototype.constructor.name}.${String(method)} of the module ${wrapper.host?.name ?? '?'}`
      const no = (text: string): never => {
        throw new OptionError('handlers', `${who} handles "${topic}", but ${text}`)
      }
      seen.add(wrapper.instance)
      if (wrapper.isTransient || !wrapper.isDependencyTreeStatic())
        no(
          'its provider is made anew for each request or for each use, and a message is none: give it the default scope.',
        )
      const { consumer = consumers.length === 1 ? consumers[0]! : null, ...rest } = options
      const known = consumers.length === 0 ? 'There is none.' : `There are: ${consumers.join(', ')}.`
      if (consumer === null) no(`does not say for which consumer. ${known}`)
      const handlers = found.get(consumer!)
      if (handlers === undefined) no(`its consumer "${consumer}" is not described in forRoot. ${known}`)
      const other = handlers!.get(topic)
      if (other !== undefined)
        no(
          `${other.who} does so too, for the consumer "${consumer}". A message is handled once for each consumer.`,
        )
      const handle: Method = (message, context) =>
        (wrapper.instance as Record<string | symbol, Method>)[method]!(message, context)
      handlers!.set(topic, { entry: { ...rest, handle }, who })
    }
  }
  return new Map(
    [...found].map(([name, handlers]) => [
      name,
      Object.fromEntries([...handlers].map(([topic, { entry }]) => [topic, entry as HandlerEntry<unknown>])),
    ]),
  )
}

/** Of what is made for each request there is no instance, and its class says what it handles. */
function prototypeOf(wrapper: Wrapper): object | null {
  if (wrapper.isAlias) return null
  const instance: unknown = wrapper.instance
  if (typeof instance === 'object' && instance !== null)
    return Object.getPrototypeOf(instance) as object | null
  const made = wrapper.metatype as { readonly prototype?: object } | null
  return made?.prototype ?? null
}
