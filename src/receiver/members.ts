/**
 * The members of a JSON object, by name, each as the text that stands there; of a name that stands twice the last one, as with
 * `JSON.parse`. Null if it is no object, `many` if it has more than so many.
 *
 * @param json valid JSON
 */
export function membersOf(json: string, most: number): ReadonlyMap<string, string> | 'many' | null {
  const members = new Map<string, string>()
  let at = json.search(/\S/)
  if (json[at] !== '{') return null
  at++
  for (let count = 0; ; count++) {
    const start = json.indexOf('"', at)
    // In valid JSON nothing but a name begins with a quote here, and without one the object has ended.
    if (start < 0) return members
    if (count === most) return 'many'
    const end = endOfText(json, start)
    const colon = json.indexOf(':', end)
    at = endOfValue(json, colon + 1)
    members.set(JSON.parse(json.slice(start, end)) as string, json.slice(colon + 1, at).trim())
  }
}

/** Behind the quote that ends the text whose first quote stands at `at`. */
function endOfText(json: string, at: number): number {
  for (let place = at + 1; place < json.length; place++) {
    const character = json[place]
    if (character === '\\') place++
    else if (character === '"') return place + 1
  }
  return json.length
}

/** Where the comma or the brace stands that is behind a value. */
function endOfValue(json: string, from: number): number {
  let depth = 0
  for (let at = from; at < json.length; at++) {
    const character = json[at]
    if (character === '"') at = endOfText(json, at) - 1
    else if (character === '{' || character === '[') depth++
    else if (character === ']' || character === '}') {
      if (depth-- === 0) return at
    } else if (character === ',' && depth === 0) return at
  }
  return json.length
}
