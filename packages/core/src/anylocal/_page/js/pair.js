// Two captures: their difference, and both side by side.
import { greatest, scaleOf } from "./scales.js";
import { $, data, isShared, layer, normOf, state, tableOf, view } from "./state.js";
import { countedParts, labelOf, phraseOf } from "./positions.js";
import { lineOf, merged, open } from "./weights.js";
import { drawLegend } from "./draw.js";
import { Panel } from "./panel.js";
import { askedGroup, sides } from "./query.js";
import { blocks, cellsOf, countedCells, namesOf, paint } from "./map.js";

const NAMES = data.others ? ["a", "b"] : [];
const panels = NAMES.map((name) => new Panel($(`${name}-to`), "", name));

// A layer of a side, or what one side has more than the other.
export async function openSide(number, side) {
  if (side === "a") return open(number);
  const other = await open(number + data.layers.length);
  if (side === "b") return other;
  const own = await open(number);
  return {
    line(place, position) {
      const [one, two] = [own, other].map((maps) => lineOf(maps, place, position));
      return one.map((weight, at) => weight - two[at]);
    },
    told(place, query, key) {
      const [one, two] = [own, other].map((maps) => lineOf(maps, place, query)[key]);
      return `a − b = ${one.toFixed(4)} − ${two.toFixed(4)}; choose a or b to see how that weight comes about.`;
    },
  };
}

export const openPair = async () => (data.others ? Promise.all(NAMES.map((name) => openSide(state.layer, name))) : null);

// Shows the positions of each side, under its own names.
export function showPair(choose) {
  $("pair").hidden = !view.pair;
  if (!view.pair) return;
  const [, { name, groups }] = sides();
  panels.forEach((panel, at) => {
    const axis = data.axes[data.sides[at][state.layer][name === "query" ? "queries" : "keys"]];
    const own = groups.map((group) => (group.positions.length > 1 ? group : { ...group, label: labelOf(axis, group.positions[0]) }));
    panel.title.hidden = true;
    panel.show(axis, own, isShared() ? choose : null);
  });
}

// Draws what is asked for in both, on one scale.
export function drawPair() {
  if (!view.pair) return;
  const [asked, other] = sides();
  const { positions } = askedGroup(asked);
  const lines = view.pair.map((maps) => merged(maps, positions, other.groups));
  const { words, patches } = countedParts(other.axis, other.groups);
  const scaleOver = (counted, most) => scaleOf(lines.flatMap((line) => counted.map((at) => line[at])), counted.length, most, normOf("linear"), data);
  const greatestOf = (counted) => Math.max(...lines.map((line) => greatest(counted.map((at) => line[at]))));
  const scale = scaleOver(words, patches.length ? greatestOf(words) : Math.max(...lines.map(greatest)));
  const ofImages = patches.length ? scaleOver(patches, greatestOf(patches)) : scale;
  panels.forEach((panel, at) => {
    const axis = data.axes[data.sides[at][state.layer][asked.name === "query" ? "queries" : "keys"]];
    const phrase = phraseOf(axis, positions[0]);
    $(`${NAMES[at]}-asked`).textContent = `${NAMES[at]}: ${state.way === "query" ? `what ${phrase} attends to` : `what attends to ${phrase}`}`;
    panel.paint(lines[at], scale, isShared() ? state[asked.name] : null, ofImages);
  });
  drawLegend("pair", scale, panels[0].table);
  $("pair-images-legend").hidden = !patches.length;
  if (patches.length) drawLegend("pair-images", ofImages, tableOf(data.pictures.length > 0, "a"));
}

// Draws the maps of both, on one scale; returns whether they were, or something else is to be drawn.
export async function drawPairMaps(isCurrent) {
  if (!view.pair) return true;
  const found = blocks();
  const cells = [];
  for (const maps of view.pair) cells.push(await cellsOf(maps, found, isCurrent));
  if (!cells.every(Boolean)) return false;
  const counted = cells.flatMap((each) => [...countedCells(each, found)]);
  const scale = scaleOf(counted, found.across.counted.length, Math.max(...cells.map(greatest)), normOf("sqrt"), data);
  cells.forEach((each, at) => paint(each, found.down.starts.length, found.across.starts.length, scale, $(`${NAMES[at]}-map`), NAMES[at]));
  [layer(), data.others[state.layer]].forEach((own, at) => { $(`${NAMES[at]}-heading`).textContent = `${NAMES[at]}: ${namesOf(own).join(", ")}`; });
  drawLegend("pair-map", scale, tableOf(false, "a"));
  return true;
}
