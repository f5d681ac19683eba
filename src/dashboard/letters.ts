import { OptionError } from '../base/errors.ts'
import type { DeadLetterFilter } from '../operate/filter.ts'
import type { ParkedKeyFilter } from '../operate/parked.ts'
import { boxFields, boxName, readBox } from './parts/box.ts'
import { given } from './parts/field.ts'
import type { Fields } from './view.ts'

/** Filters as a query or a form has them, so that a page of letters, its link and its change mean the same. */

/** @throws OptionError */
export function readLetterFilter(query: URLSearchParams): DeadLetterFilter {
  const numbers = [...query.getAll('number'), ...(given(query, 'numbers')?.split(',') ?? [])]
  for (const number of numbers)
    if (!/^[1-9]\d{0,14}$/.test(number))
      throw new OptionError(
        'number',
        `"${number}" is not the number of a dead letter, a whole number from 1 on.`,
      )
  return {
    consumer: readBox(query),
    ...{ topic: given(query, 'topic'), key: given(query, 'key'), error: given(query, 'error') },
    errorClass: given(query, 'class'),
    numbers: numbers.length === 0 ? undefined : numbers.map(Number),
  }
}

export const letterFields = ({
  consumer,
  topic,
  key,
  error,
  errorClass,
  numbers,
}: DeadLetterFilter): Fields => ({
  ...{ ...boxFields(consumer), topic, key, error },
  ...{ class: errorClass, numbers: numbers?.join(',') },
})

/** What a filter means, in words. */
export const letterWords = ({ consumer, topic, key, error, errorClass, numbers }: DeadLetterFilter): string =>
  words([
    numbers !== undefined &&
      `number ${numbers.length > 5 ? `${numbers.slice(0, 5).join(', ')} and others` : numbers.join(', ')}`,
    consumer !== undefined && `of ${boxName(consumer)}`,
    topic !== undefined && `of the topic ${topic}`,
    key !== undefined && `of the key "${key}"`,
    errorClass !== undefined && `with ${errorClass}`,
    error !== undefined && `whose reason contains "${error}"`,
  ])

/** @throws OptionError */
export const readKeyFilter = (query: URLSearchParams): ParkedKeyFilter => ({
  consumer: readBox(query),
  ...{ key: given(query, 'key'), error: given(query, 'error') },
})

export const keyFields = ({ consumer, key, error }: ParkedKeyFilter): Fields => ({
  ...boxFields(consumer),
  key,
  error,
})

export const keyWords = ({ consumer, key, error }: ParkedKeyFilter): string =>
  words([
    consumer !== undefined && `of ${boxName(consumer)}`,
    key !== undefined && `"${key}"`,
    error !== undefined && `whose reason contains "${error}"`,
  ])

const words = (parts: readonly (string | false)[]): string => {
  const told = parts.filter((part) => part !== false)
  return told.length === 0 ? 'all' : told.join(', ')
}

/** What a form or a link is to do. @throws OptionError */
export function readDoes(query: URLSearchParams): 'redrive' | 'skip' {
  const does = query.get('does')
  if (does === 'redrive' || does === 'skip') return does
  throw new OptionError('does', 'It can be redriven or skipped.')
}
