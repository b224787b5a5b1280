// The rows and columns of a layer's maps, from one byte a weight, or from query and key. Nothing here needs a document.
//
// Both have row(block, query, into) and column(block, key, into), which write the weights of one head; a block is the
// number of a head of a window of a sample. Shapes are (sample, window, head, query, key).
import { SQUARES, split, summed } from "./bytes.js";

export function stored(buffer, shape, differences) {
  const [samples, windows, heads, rows, columns] = shape;
  const maps = split(buffer, samples * windows * heads);
  const { scales, bytes } = differences ? summed(maps, shape) : maps;
  return {
    row(block, query, into) {
      const from = (block * rows + query) * columns;
      for (let key = 0; key < columns; key++) into[key] = scales[block] * SQUARES[bytes[from + key]];
    },
    column(block, key, into) {
      const from = block * rows * columns + key;
      for (let query = 0; query < rows; query++) into[query] = scales[block] * SQUARES[bytes[from + query * columns]];
    },
  };
}

// The sections of the bytes, in the order in which anylocal._page.computed writes them.
function sections(buffer, [samples, windows, heads, rows, columns], { bits, features, groups, spans }) {
  let at = 0;
  const take = (Type, count) => {
    const found = new Type(buffer, at, count);
    at += count * Type.BYTES_PER_ELEMENT;
    return found;
  };
  const batch = samples * windows;
  const floats = (count) => take(Float32Array, batch * count);
  const sums = floats(heads * rows);
  const bias = floats(heads * columns);
  const [qMean, qStep, kMean, kStep] = [heads, heads, groups, groups].map((count) => floats(count * features));
  const ends = spans ? take(Int32Array, batch * 2 * rows) : null;
  const [ofQ, ofK] = [heads * rows * features, groups * columns * features];
  const high = take(Int8Array, batch * (ofQ + ofK));
  // The lower bits of each number follow without a gap.
  const low = new Uint8Array(buffer, at);
  const rest = bits - 8;
  const [steps, mask] = [2 ** rest, 2 ** rest - 1];
  const level = rest
    ? (place) => {
      const [from, shift] = [(place * rest) >> 3, (place * rest) & 7];
      return high[place] * steps + (((low[from] | (low[from + 1] << 8)) >> shift) & mask);
    }
    : (place) => high[place];
  const q = new Int16Array(batch * ofQ);
  // Of the key heads, by channel and then by key; of a length at which row() takes four channels at a time.
  const channels = planesOf(features);
  const k = new Float64Array(batch * groups * channels * columns);
  // Query and key of each sample follow each other.
  for (let number = 0, place = 0; number < batch; number++) {
    for (let within = 0; within < ofQ; within++) q[number * ofQ + within] = level(place++);
    for (let key = 0; key < groups * columns; key++) {
      const group = number * groups + Math.floor(key / columns);
      for (let at = 0; at < features; at++) k[(group * channels + at) * columns + (key % columns)] = level(place++);
    }
  }
  return { sums, bias, qMean, qStep, kMean, kStep, ends, q, k };
}

const planesOf = (features) => 4 * Math.ceil(features / 4);

// The product of a vector with the one of so many features that starts at a place.
function product(vector, all, start, features) {
  let [a, b, c, d] = [0, 0, 0, 0];
  let at = 0;
  // Four sums, which do not wait for each other.
  for (; at + 3 < features; at += 4) {
    a += vector[at] * all[start + at];
    b += vector[at + 1] * all[start + at + 1];
    c += vector[at + 2] * all[start + at + 2];
    d += vector[at + 3] * all[start + at + 3];
  }
  for (; at < features; at++) a += vector[at] * all[start + at];
  return a + b + (c + d);
}

export function computed(buffer, shape, form) {
  const [, , heads, rows, columns] = shape;
  const { features, groups, scale, biased } = form;
  const { sums, bias, qMean, qStep, kMean, kStep, ends, q, k } = sections(buffer, shape, form);
  const channels = planesOf(features);
  const vector = new Float64Array(channels);
  const scores = new Float64Array(columns);
  // The number of the key head of a block, and the keys that a query sees.
  const groupOf = (block) => Math.floor(block / heads) * groups + Math.floor((block % heads) / (heads / groups));
  const spanOf = (block, query) => {
    if (!ends) return [0, columns];
    const from = Math.floor(block / heads) * 2 * rows + query;
    return [ends[from], ends[from + rows]];
  };
  // Query or key, times what turns the levels of the other side into scores.
  const scaled = (levels, start, stride, block) => {
    for (let at = 0; at < features; at++) vector[at] = scale * qStep[block * features + at] * kStep[groupOf(block) * features + at] * levels[start + at * stride];
    return vector;
  };
  return {
    row(block, query, into) {
      const asked = scaled(q, (block * rows + query) * features, 1, block);
      const [start, stop] = spanOf(block, query);
      const [sum, first, ofKeys] = [sums[block * rows + query], groupOf(block) * channels, block * columns];
      for (let key = start; key < stop; key++) scores[key] = bias[ofKeys + key] - sum;
      for (let at = 0; at < channels; at += 4) {
        const [a, b, c, d] = [asked[at], asked[at + 1], asked[at + 2], asked[at + 3]];
        const [ofA, ofB, ofC, ofD] = [0, 1, 2, 3].map((next) => (first + at + next) * columns);
        for (let key = start; key < stop; key++) scores[key] += a * k[ofA + key] + b * k[ofB + key] + (c * k[ofC + key] + d * k[ofD + key]);
      }
      into.fill(0, 0, columns);
      for (let key = start; key < stop; key++) into[key] = Math.exp(scores[key]);
    },
    column(block, key, into) {
      const asked = scaled(k, groupOf(block) * channels * columns + key, columns, block);
      const own = bias[block * columns + key];
      for (let query = 0; query < rows; query++) {
        const [start, stop] = spanOf(block, query);
        const place = block * rows + query;
        into[query] = key < start || key >= stop ? 0 : Math.exp(product(asked, q, place * features, features) + own - sums[place]);
      }
    },
    // What a weight is made of: the products of query and key by channel, and what the mask adds.
    vectors(block, query, key) {
      const group = groupOf(block);
      const [start, stop] = spanOf(block, query);
      const products = new Float64Array(features);
      let common = 0;
      for (let at = 0; at < features; at++) {
        const [ofQ, ofK] = [block * features + at, group * features + at];
        const rest = kStep[ofK] * k[(group * channels + at) * columns + key];
        products[at] = (qMean[ofQ] + qStep[ofQ] * q[(block * rows + query) * features + at]) * (kMean[ofK] + rest);
        common += qMean[ofQ] * rest;
      }
      const own = bias[block * columns + key];
      // What all queries have in common is a part of the bias: see anylocal._page.rounded.
      const added = key < start || key >= stop || own === -Infinity ? -Infinity : biased ? own - scale * common : 0;
      return { products, scale, added };
    },
  };
}
