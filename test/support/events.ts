import type { TwinboxEvent } from '../../src/base/events.ts'

type Of<Type extends TwinboxEvent['type']> = Extract<TwinboxEvent, { type: Type }>

/** Records events, and lets a test wait for one instead of for some time. */
export interface Recorder {
  readonly all: TwinboxEvent[]
  readonly onEvent: (event: TwinboxEvent) => void
  of<Type extends TwinboxEvent['type']>(type: Type): Of<Type>[]
  /** The `count`-th event of a type that matches, past or to come. */
  next<Type extends TwinboxEvent['type']>(
    type: Type,
    matches?: (event: Of<Type>) => boolean,
    count?: number,
  ): Promise<Of<Type>>
}

export function recordEvents(): Recorder {
  const all: TwinboxEvent[] = []
  const waiting = new Set<() => void>()
  return {
    all,
    onEvent(event) {
      all.push(event)
      for (const look of waiting) look()
    },
    of: <Type extends TwinboxEvent['type']>(type: Type) =>
      all.filter((event): event is Of<Type> => event.type === type),
    next<Type extends TwinboxEvent['type']>(
      type: Type,
      matches: (event: Of<Type>) => boolean = () => true,
      count = 1,
    ) {
      return new Promise<Of<Type>>((resolve) => {
        const look = (): void => {
          const found = this.of(type).filter(matches)
          if (found.length < count) return
          waiting.delete(look)
          resolve(found[count - 1]!)
        }
        waiting.add(look)
        look()
      })
    },
  }
}
