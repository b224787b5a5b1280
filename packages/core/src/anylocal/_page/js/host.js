// Where the page is drawn and where its data come from: its own document. A widget gives an object of its own instead.
export const host = {
  root: document,
  shell: document.documentElement,
  text: (id) => document.getElementById(id).textContent,
  isDark: () => matchMedia("(prefers-color-scheme: dark)").matches,
  // Only of a widget: `open(number)` is a layer that Python reads; `attach(door)` gets what scripts of a page find as
  // `anylocal`; `start()` follows the first picture, and `shown(state)` all others.
  open: null,
  attach: null,
  start: null,
  shown: null,
};
