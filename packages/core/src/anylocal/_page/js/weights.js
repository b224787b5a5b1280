// The weights of the layer that is shown, by head and position.
import { SQUARES, split, summed, unpack } from "./bytes.js";
import { $, data, layer, state } from "./state.js";

// Decoded layers are cached up to this many bytes, the most recently used ones.
const KEPT = 256 * 2 ** 20;

const opened = new Map();
export function open(number) {
  const found = opened.get(number);
  opened.delete(number);
  const [samples, windows, heads, rows, columns] = data.layers[number].shape;
  const promise = found?.promise ?? unpack($(`layer-${number}`).textContent).then((buffer) => {
    const maps = split(buffer, samples * windows * heads);
    return data.layers[number].differences ? summed(maps, data.layers[number].shape) : maps;
  });
  opened.set(number, { promise, size: samples * windows * heads * rows * columns });
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

// Adds one row of the map, the weights of a query, to an array.
function rowOf({ scales, bytes }, query, into, start) {
  const [, , , rows, columns] = layer().shape;
  const heads = headsOf();
  for (const head of heads) {
    const scale = scales[blockOf(head)];
    const from = (blockOf(head) * rows + query) * columns;
    if (state.head === "max") for (let key = 0; key < columns; key++) into[start + key] = Math.max(into[start + key], scale * SQUARES[bytes[from + key]]);
    else for (let key = 0; key < columns; key++) into[start + key] += (scale * SQUARES[bytes[from + key]]) / heads.length;
  }
}

// Attention to a word is the sum over its tokens, attention from a word the mean (Clark et al. 2019).
export function merged(maps, positions, groups) {
  const columns = layer().shape[4];
  const total = new Float32Array(groups.length);
  for (const position of positions) {
    const row = new Float32Array(columns);
    rowOf(maps, position, row, 0);
    groups.forEach(({ positions: keys }, at) => { for (const key of keys) total[at] += row[key] / positions.length; });
  }
  return total;
}

export function wholeOf(maps, rows, columns) {
  const [, , , all, wide] = layer().shape;
  const whole = new Float32Array(rows.length * columns.length);
  if (rows.length === all && columns.length === wide) for (let query = 0; query < all; query++) rowOf(maps, query, whole, query * wide);
  else rows.forEach(({ positions }, at) => whole.set(merged(maps, positions, columns), at * columns.length));
  return whole;
}
