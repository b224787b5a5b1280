// The map of the chosen head.
import { $, SIDES, data, isDifference, keys, layer, ofSide, queries, sharedTop, state, tableOf, view } from "./state.js";
import { countedOf } from "./positions.js";
import { headsOf, merged } from "./weights.js";
import { css, drawLegend, imageOf, sized } from "./draw.js";
import { thumbsOf } from "./overview.js";
import { scaleHere } from "./signed.js";

// A longer side is drawn in about so many cells: a screen has no room for more.
const CELLS = 600;
// Multiplications for a picture of a map, which take a second or two: of very long maps, fewer rows are drawn.
const WORK = 2e9;
const FEWEST = 120;
// Positions of a map with labels beside it.
export const LABELLED = 48;
// Milliseconds of work after which the page is free for the reader's next step.
const SLICE = 24;

// Where blocks of groups start, so that none has both groups that count and others: see anylocal._drawing.panel.starts_of.
function startsOf(count, counted, most) {
  const together = Math.ceil(count / most);
  const flags = new Uint8Array(count);
  for (const at of counted) flags[at] = 1;
  const starts = [];
  for (let start = 0, end = 0; start < count; start = end) {
    while (end < count && flags[end] === flags[start]) end += 1;
    const number = Math.ceil((end - start) / together);
    for (let block = 0; block < number; block++) starts.push(start + Math.floor((block * (end - start)) / number));
  }
  return starts;
}

// Which groups of an axis are drawn, as where blocks of them start, and which blocks count for the scale.
function blocksOf(axis, groups, most) {
  const counted = countedOf(axis, groups);
  const starts = startsOf(groups.length, counted, most);
  const counts = new Set(counted);
  return { starts, counted: [...starts.keys()].filter((at) => counts.has(starts[at])), length: groups.length };
}

function mostRows() {
  const { shape, operands } = layer();
  const work = headsOf().length * shape[4] * (operands?.features ?? 1);
  return Math.max(FEWEST, Math.min(CELLS, Math.floor(WORK / work)));
}

// Means of the weights in each block.
function shortened(weights, { starts, length }) {
  if (starts.length === length) return weights;
  return Float32Array.from(starts, (start, at) => {
    const end = starts[at + 1] ?? length;
    let sum = 0;
    for (let place = start; place < end; place++) sum += weights[place];
    return sum / (end - start);
  });
}

// The middle row of each block of rows, each in means of blocks of columns; null if something else is to be drawn.
export async function cellsOf(maps, { down, across }, isCurrent) {
  const cells = new Float32Array(down.starts.length * across.starts.length);
  const middles = down.starts.map((start, at) => view.down.groups[(start + (down.starts[at + 1] ?? down.length) - 1) >> 1].positions);
  if (maps.prepare && !(await maps.prepare({ ...state, way: "query" }, middles.flat(), isCurrent))) return null;
  let until = performance.now() + SLICE;
  for (const [at, positions] of middles.entries()) {
    cells.set(shortened(merged(maps, positions, view.across.groups, "query"), across), at * across.starts.length);
    if (performance.now() < until) continue;
    await new Promise((done) => setTimeout(done));
    if (!isCurrent()) return null;
    until = performance.now() + SLICE;
  }
  return cells;
}

// The cells that were computed last, and what of: another scale needs no others.
const kept = { of: "", cells: null };
const shown = () => JSON.stringify(["side", "layer", "head", "sample", "window", "padding", "special", "words", "near"].map((name) => state[name]).concat(view.down.from, view.across.from));

// Draws the thumbnails of the heads in place of their map, which takes longer; where they have the same positions.
export function sketchMap() {
  const [, windows, , rows, columns] = layer().shape;
  if (kept.of === shown() || state.near || (isDifference() && state.head === "max") || windows > 1 || view.down.groups.length < rows || view.across.groups.length < columns) return;
  const thumbs = headsOf().map((head) => thumbsOf(state.layer)[state.sample][head]);
  const join = state.head === "max" ? (values) => Math.max(...values) : (values) => values.reduce((sum, value) => sum + value) / values.length;
  const cells = thumbs[0].values.map((_, at) => join(thumbs.map(({ values }) => values[at])));
  paint(cells, thumbs[0].rows, thumbs[0].columns, scaleHere(cells, cells, thumbs[0].columns, "sqrt", sharedTop()));
}

// Cells are square, unless one side of the map is more than four times the other.
export function paint(cells, height, width, scale, canvas = $("map"), side = state.side) {
  [canvas.width, canvas.height] = [width, height];
  canvas.style.aspectRatio = String(Math.min(4, Math.max(0.25, view.across.groups.length / view.down.groups.length)));
  canvas.getContext("2d").putImageData(imageOf(cells, width, height, scale, tableOf(false, side)), 0, 0);
}

export const blocks = () => ({ down: blocksOf(queries(), view.down.groups, mostRows()), across: blocksOf(keys(), view.across.groups, CELLS) });

// The cells that count for the scale.
export const countedCells = (cells, { down, across }) => Float32Array.from({ length: down.counted.length * across.counted.length }, (_, at) => cells[down.counted[Math.floor(at / across.counted.length)] * across.starts.length + across.counted[at % across.counted.length]]);

// What a map is of: its layer and its heads.
export function namesOf({ name, ref, shape }) {
  const count = shape[2];
  const together = count > 1 && (state.head === "mean" || state.head === "max");
  return [name || `layer ${ref}`, together ? `${state.head} of ${count} heads` : `head ${count > 1 ? state.head : 0}`];
}

// Returns whether the map was drawn; otherwise something else is to be drawn.
export async function drawMap(isCurrent) {
  const { down, across } = blocks();
  const of = shown();
  const cells = kept.of === of ? kept.cells : await cellsOf(view.maps, { down, across }, isCurrent);
  if (!cells) return false;
  Object.assign(kept, { of, cells });
  const [height, width] = [down.starts.length, across.starts.length];
  const counted = countedCells(cells, { down, across });
  const scale = scaleHere(cells, counted, across.counted.length, "sqrt", sharedTop());
  paint(cells, height, width, scale);
  drawLabels();
  drawLegend("map", scale, tableOf(false));
  $("heading").textContent = [...namesOf(ofSide()), ...(data.others ? [SIDES[state.side]] : [])].join(", ");
  const [every, each] = [Math.ceil(down.length / height), Math.ceil(across.length / width)];
  $("map-note").textContent = [every > 1 ? `One query of ${every} is drawn` : "", each > 1 ? `a cell is the mean of ${each} keys` : ""].filter(Boolean).join("; ");
  return true;
}

// Labels beside the map, if they are few enough to be readable.
function drawLabels() {
  const few = view.down.groups.length <= LABELLED && view.across.groups.length <= LABELLED;
  for (const id of ["left", "top"]) $(id).hidden = !few;
  if (!few) return;
  const measure = $("left").getContext("2d");
  const size = (count) => Math.max(6, Math.min(11, (0.9 * $("frame").clientWidth) / count / 1.15));
  const width = (groups) => {
    measure.font = `${size(groups.length)}px system-ui, sans-serif`;
    return Math.min(90, 6 + Math.max(...groups.map(({ label }) => measure.measureText(label).width)));
  };
  const [left, top] = [width(view.down.groups), width(view.across.groups)];
  sized($("left"), left, 1);
  const map = { width: $("map").clientWidth, height: $("map").clientHeight };
  writeLabels(sized($("left"), left, map.height), view.down.groups, size(view.down.groups.length), left, (drawing, at) => drawing.translate(left - 4, ((at + 0.5) * map.height) / view.down.groups.length), "right");
  writeLabels(sized($("top"), map.width, top), view.across.groups, size(view.across.groups.length), top, (drawing, at) => {
    drawing.translate(((at + 0.5) * map.width) / view.across.groups.length, top - 4);
    drawing.rotate(-Math.PI / 2);
  }, "left");
}

function writeLabels(drawing, groups, size, room, place, align) {
  drawing.font = `${size}px system-ui, sans-serif`;
  drawing.fillStyle = css("--quiet");
  drawing.textAlign = align;
  drawing.textBaseline = "middle";
  groups.forEach(({ label }, at) => {
    drawing.save();
    place(drawing, at);
    drawing.fillText(label, 0, 0, room - 5);
    drawing.restore();
  });
}
