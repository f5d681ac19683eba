// What pages do beside being read: fragments follow the polls, charts move, times are in the viewer's zone, and keys lead to pages.
// Without this script all pages read and all forms work.

const dated = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' })

/** The exact time in the zone of whoever reads it; the server has said UTC. */
function localize(within) {
  for (const time of within.querySelectorAll('time[datetime]')) {
    const utc = time.title
    if (!utc.endsWith('UTC')) continue
    time.title = `${dated.format(new Date(time.dateTime))} (${utc.replace(/ UTC$/, '')} in UTC)`
  }
}

/** Whether somebody is about to use what stands there: then it stays as it is until the next poll. */
const isBusy = (element) =>
  element.contains(document.activeElement) && document.activeElement !== document.body

function replace({ name, html }) {
  const element = document.querySelector(`[data-live="${CSS.escape(name)}"]`)
  if (element === null) return
  const focused = isBusy(element) ? document.activeElement : null
  if (focused !== null && !focused.matches('a[href]')) {
    waiting.set(name, html)
    return
  }
  waiting.delete(name)
  const href = focused?.getAttribute('href')
  element.innerHTML = html
  localize(element)
  if (href != null) element.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus()
}

/** Fragments that came while their element was in use. */
const waiting = new Map()

const main = document.querySelector('main')
function follow(url) {
  const source = new EventSource(url)
  source.addEventListener('open', () => main.classList.remove('stale'))
  source.addEventListener('error', () => main.classList.add('stale'))
  source.addEventListener('fragment', ({ data }) => replace(JSON.parse(data)))
  source.addEventListener('poll', () => {
    for (const [name, html] of waiting) replace({ name, html })
    document.dispatchEvent(new Event('twinbox:poll'))
  })
  addEventListener('pagehide', () => source.close())
}

/** Of Okabe and Ito, told apart by whoever sees fewer colours; each line has its own dashes too. */
const strokes = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#8a8a8a', '#a0522d']
const dashes = [[], [8, 4], [2, 3], [12, 4, 2, 4], [], [8, 4], [2, 3], [12, 4, 2, 4]]
const linesMax = strokes.length

async function chart(figures, library) {
  await new Promise((resolve, reject) => {
    const script = document.createElement('script')
    script.src = library
    script.addEventListener('load', resolve)
    script.addEventListener('error', reject)
    document.head.append(script)
  })
  const source = figures[0].dataset.chart
  const known = new Map()
  let after = 0
  const read = async () => {
    const response = await fetch(`${source}?after=${after}`)
    if (!response.ok) return
    for (const [box, series] of Object.entries(await response.json())) {
      const old = known.get(box)
      const hour = Date.now() / 1000 - 3600
      const first =
        old === undefined
          ? 0
          : Math.max(
              0,
              old.at.findIndex((at) => at > hour),
            )
      for (const name of Object.keys(series))
        series[name] = [...(old?.[name].slice(first) ?? []), ...series[name]]
      known.set(box, series)
      after = Math.max(after, (series.at.at(-1) ?? 0) * 1000)
    }
    for (const figure of figures) draw(figure, known)
  }
  document.addEventListener('twinbox:poll', () => void read().catch(() => {}))
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    // Axes keep the colour that text had when they were made, which may be that of the ground now.
    for (const figure of figures) {
      clear(figure)
      draw(figure, known)
    }
  })
  await read()
}

const plots = new Map()

function clear(figure) {
  const plot = plots.get(figure)
  plot?.sizes.disconnect()
  plot?.chart.destroy()
  plots.delete(figure)
}

function draw(figure, known) {
  const { lines, box: only, unit } = figure.dataset
  const latest = ([, { depth }]) => depth.at(-1) ?? 0
  const boxes = [...known]
    .filter(([box]) => only === undefined || only === '' || box === only)
    .toSorted((a, b) => latest(b) - latest(a))
    .slice(0, linesMax)
  const drawn = boxes.flatMap(([box, series]) =>
    lines
      .split(' ')
      .map((line) => ({ label: lines.includes(' ') ? line : box, at: series.at, values: series[line] })),
  )
  if (drawn.length === 0) return
  const times = [...new Set(drawn.flatMap(({ at }) => at))].toSorted((a, b) => a - b)
  // Of one point, a chart would span years.
  if (times.length < 2) return
  const data = [
    times,
    ...drawn.map(({ at, values }) => {
      const byTime = new Map(at.map((time, index) => [time, values[index]]))
      return times.map((time) => byTime.get(time) ?? null)
    }),
  ]
  figure.hidden = false
  const labels = drawn.map(({ label }) => label).join('\n')
  const plot = plots.get(figure)
  if (plot?.labels === labels) {
    plot.chart.setData(data)
    return
  }
  clear(figure)
  const room = figure.querySelector('.plot')
  const fresh = new uPlot(looks(room, drawn, unit), data, room)
  const sizes = new ResizeObserver(() => fresh.setSize({ width: room.clientWidth, height: 200 }))
  sizes.observe(room)
  plots.set(figure, { labels, chart: fresh, sizes })
}

function looks(room, drawn, unit) {
  const style = getComputedStyle(room)
  const axis = { stroke: style.color, grid: { stroke: '#8884' }, ticks: { stroke: '#8884' } }
  const said = (_, value) =>
    value === null ? '–' : `${value.toLocaleString('en', { maximumFractionDigits: 1 })} ${unit}`
  return {
    width: room.clientWidth,
    height: 200,
    scales: {
      y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] },
    },
    axes: [
      { ...axis, space: 70, values: (_, times) => times.map(clock) },
      { ...axis, size: 60 },
    ],
    series: [
      { label: 'Time', value: (_, time) => (time === null ? '–' : clock(time)) },
      ...drawn.map(({ label }, index) => ({
        ...{ label, stroke: strokes[index % linesMax], dash: dashes[index % linesMax], width: 2 },
        ...{ spanGaps: true, value: said },
      })),
    ],
  }
}

/** The time of day where the viewer is, in 24 hours. */
const clock = (time) => new Date(time * 1000).toTimeString().slice(0, 8)

/** g and a number leads to that page, / to the search. */
let isGoing = false
document.addEventListener('keydown', (event) => {
  const { key, target, ctrlKey, metaKey, altKey } = event
  if (ctrlKey || metaKey || altKey || target.closest('input, textarea, select')) return
  if (key === '/') {
    const search = document.querySelector('[role="search"] :is(input, select)')
    if (search !== null) {
      event.preventDefault()
      search.focus()
    }
  } else if (isGoing && /^[1-9]$/.test(key)) document.querySelectorAll('nav a')[Number(key) - 1]?.click()
  isGoing = key === 'g'
})

localize(document)
if (main?.dataset.stream !== undefined) follow(main.dataset.stream)
const figures = [...document.querySelectorAll('[data-chart]')]
const library = document.querySelector('script[data-charts]')
if (figures.length > 0) void chart(figures, library.dataset.charts)
