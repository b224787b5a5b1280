// The weights of the layer that is shown, by head and position.
import { unpack } from "./bytes.js";
import { host } from "./host.js";
import { computed, stored } from "./rows.js";
import { $, data, described, state } from "./state.js";

// Decoded layers are cached up to this many bytes, the most recently used ones.
const KEPT = 256 * 2 ** 20;

const opened = new Map();
export function open(number) {
  if (host.open) return host.open(number);
  const found = opened.get(number);
  opened.delete(number);
  const { shape, differences, operands } = described[number];
  const promise = found?.promise ?? unpack($(`layer-${number}`).textContent).then((buffer) => (operands ? computed(buffer, shape, operands) : stored(buffer, shape, differences)));
  const [samples, windows, heads, rows, columns] = shape;
  const size = operands ? operands.features * heads * (2 * rows + 8 * columns) : heads * rows * columns;
  opened.set(number, { promise, size: samples * windows * size });
  let held = 0;
  for (const [key, { size }] of [...opened].reverse()) {
    held += size;
    if (held > KEPT && key !== number) opened.delete(key);
  }
  return promise;
}

// A block is the number of a head of a window of a sample.
export const blockOf = ({ layer, sample, window }, head) => {
  const [, windows, heads] = data.layers[layer].shape;
  return (sample * windows + window) * heads + head;
};
export const headsOf = ({ layer, head } = state) => (typeof head === "number" ? [head] : Array.from({ length: data.layers[layer].shape[2] }, (_, number) => number));

// The weights of a query, or those that a key gets, at a layer, sample and window: of a head, or of all heads together.
export function lineOf(maps, place, position) {
  if (maps.line) return maps.line(place, position);
  const [first, ...rest] = headsOf(place);
  const [, , , rows, columns] = data.layers[place.layer].shape;
  const [read, length] = place.way === "query" ? [maps.row, columns] : [maps.column, rows];
  const total = new Float32Array(length);
  read(blockOf(place, first), position, total);
  const own = new Float32Array(length);
  for (const head of rest) {
    read(blockOf(place, head), position, own);
    if (place.head === "max") for (let at = 0; at < length; at++) total[at] = Math.max(total[at], own[at]);
    else for (let at = 0; at < length; at++) total[at] += own[at];
  }
  if (place.head !== "max") for (let at = 0; at < length; at++) total[at] /= rest.length + 1;
  return total;
}

// The weights between some positions together and groups of the other side. Attention to a word is the sum over its
// tokens, attention from a word the mean (Clark et al. 2019).
export function merged(maps, positions, groups, way = state.way) {
  const place = { ...state, way };
  const total = new Float32Array(groups.length);
  for (const position of positions) {
    const line = lineOf(maps, place, position);
    if (positions.length === 1 && groups.length === line.length) return line;
    groups.forEach(({ positions: others }, at) => {
      const share = way === "query" ? positions.length : others.length;
      for (const other of others) total[at] += line[other] / share;
    });
  }
  return total;
}
