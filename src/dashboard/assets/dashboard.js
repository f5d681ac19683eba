/** Replaces the fragments that a poll has changed. Without this script, pages are read again to see more. */
const main = document.querySelector('[data-stream]')
if (main !== null) {
  const source = new EventSource(main.dataset.stream)
  source.addEventListener('fragment', ({ data }) => {
    const { name, html } = JSON.parse(data)
    const found = document.querySelector(`[data-live="${CSS.escape(name)}"]`)
    if (found !== null) found.innerHTML = html
  })
}
