import Table from 'cli-table3'
import { printableLine } from '../printable.ts'

const none = { 'top-mid': '', 'top-left': '', 'top-right': '', top: '', 'bottom-mid': '', 'bottom-left': '' }

/** Columns for people: no colours, no lines that a pipe would mangle. */
export function table(head: string[], rows: string[][]): string {
  const drawn = new Table({
    head,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2 },
    chars: {
      ...none,
      'bottom-right': '',
      bottom: '',
      left: '',
      right: '',
      middle: '',
      mid: '',
      'left-mid': '',
      'mid-mid': '',
      'right-mid': '',
    },
  })
  drawn.push(...rows.map((row) => row.map(printableLine)))
  return drawn
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')
}

/** In one line: a reason may hold a whole stack. */
export function short(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ')
  return line.length > 80 ? `${line.slice(0, 79)}…` : line
}
