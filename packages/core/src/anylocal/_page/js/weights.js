// The weights of the layer that is shown, by head and position.
import { unpack } from "./bytes.js";
import { computed, stored } from "./rows.js";
import { $, data, layer, state } from "./state.js";

// Decoded layers are cached up to this many bytes, the most recently used ones.
const KEPT = 256 * 2 ** 20;

const opened = new Map();
export function open(number) {
  const found = opened.get(number);
  opened.delete(number);
  const { shape, differences, operands } = data.layers[number];
  const promise = found?.promise ?? unpack($(`layer-${number}`).textContent).then((buffer) => (operands ? computed(buffer, shape, operands) : stored(buffer, shape, differences)));
  const [samples, windows, heads, rows, columns] = shape;
  const size = operands ? 6 * operands.features * heads * (rows + columns) : heads * rows * columns;
  opened.set(number, { promise, size: samples * windows * size });
  let held = 0;
  for (const [key, { size }] of [...opened].reverse()) {
    held += size;
    if (held > KEPT && key !== number) opened.delete(key);
  }
  return promise;
}

const blockOf = (head) => {
  const [, windows, heads] = layer().shape;
  return (state.sample * windows + state.window) * heads + head;
};
export const headsOf = () => (typeof state.head === "number" ? [state.head] : Array.from({ length: layer().shape[2] }, (_, head) => head));

// The weights of one query, of the chosen head or of all heads together.
function rowOf(maps, query) {
  const [first, ...rest] = headsOf();
  const columns = layer().shape[4];
  const total = new Float32Array(columns);
  maps.row(blockOf(first), query, total);
  const own = new Float32Array(columns);
  for (const head of rest) {
    maps.row(blockOf(head), query, own);
    if (state.head === "max") for (let key = 0; key < columns; key++) total[key] = Math.max(total[key], own[key]);
    else for (let key = 0; key < columns; key++) total[key] += own[key];
  }
  if (state.head !== "max") for (let key = 0; key < columns; key++) total[key] /= rest.length + 1;
  return total;
}

// Attention to a word is the sum over its tokens, attention from a word the mean (Clark et al. 2019).
export function merged(maps, positions, groups) {
  if (positions.length === 1 && groups.length === layer().shape[4]) return rowOf(maps, positions[0]);
  const total = new Float32Array(groups.length);
  for (const position of positions) {
    const row = rowOf(maps, position);
    groups.forEach(({ positions: keys }, at) => { for (const key of keys) total[at] += row[key] / positions.length; });
  }
  return total;
}
