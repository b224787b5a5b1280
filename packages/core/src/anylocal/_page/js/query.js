// The attention of one query.
import { greatest, rounded } from "./scales.js";
import { $, SIDES, data, isDifference, isShared, keys, queries, sharedTop, state, tableOf, view } from "./state.js";
import { scaleHere, sizesOf } from "./signed.js";
import { countedParts, labelOf, patchOf, phraseOf, viewsOf } from "./positions.js";
import { merged } from "./weights.js";
import { css, drawLegend, sized } from "./draw.js";
import { fromPanel, toPanel } from "./panel.js";
import { call } from "./call.js";
import { explain } from "./making.js";
import { run } from "./report.js";

// The side that is asked, and the one whose positions have the weights.
export function sides() {
  const ofQueries = { name: "query", axis: queries(), groups: view.rows, panel: isShared() ? toPanel : fromPanel };
  const ofKeys = { name: "key", axis: keys(), groups: view.columns, panel: toPanel };
  return state.way === "query" ? [ofQueries, ofKeys] : [ofKeys, ofQueries];
}

// What is asked for: a position, or the word that it is in.
export function askedGroup({ name, axis, groups }) {
  return groups.find(({ positions }) => positions.includes(state[name])) ?? { label: labelOf(axis, state[name]), positions: [state[name]] };
}

let waiting = null;

// Draws at once; of a live capture, once Python has sent the weights of what is asked for then.
export function drawQuery() {
  const [asked, other] = sides();
  const position = state[asked.name];
  const group = askedGroup(asked);
  waiting ??= view.maps.missing?.(state, group.positions)?.finally(() => { waiting = null; }).then(drawQuery) ?? null;
  if (waiting) return waiting;
  const weights = merged(view.maps, group.positions, other.groups);
  view.weights = weights;
  const sizes = sizesOf(weights);
  const most = greatest(sizes);
  const { words, patches } = countedParts(other.axis, other.groups);
  const scaleOver = (counted, values) => scaleHere(values, counted.map((at) => weights[at]), counted.length, "linear", sharedTop());
  // The weights of patches are often far smaller than those of words.
  const scale = scaleOver(words, patches.length ? weights.filter((_, at) => !patchOf(other.axis, other.groups[at].positions[0])) : weights);
  const ofImages = patches.length ? scaleOver(patches, Float32Array.from(patches, (at) => weights[at])) : scale;
  const phrase = phraseOf(asked.axis, group.positions[0], group.label);
  $("asked").textContent = (state.way === "query" ? `What ${phrase} attends to` : `What attends to ${phrase}`) + (data.others ? `, ${SIDES[state.side]}` : "");
  other.panel.paint(weights, scale, isShared() ? position : null, ofImages);
  if (!isShared()) asked.panel.paint(null, null, position);
  drawLegend("row", scale, other.panel.table);
  $("images-legend").hidden = !patches.length;
  if (patches.length) drawLegend("images", ofImages, tableOf(data.pictures.length > 0));
  const order = [...weights.keys()].sort((a, b) => sizes[b] - sizes[a]).slice(0, state.strongest);
  drawLines(asked.panel.anchor(position), order.map((at) => ({ end: other.panel.anchor(other.groups[at].positions[0]), weight: sizes[at] })), most);
  listStrongest(order, weights, other);
  tellHidden(group, other);
  tellHow(asked);
  markLine();
  $("query").value = String(position);
  $("query").setAttribute("aria-valuetext", group.label);
  $("call").textContent = call();
  return null;
}

// The lines as they are drawn, from the corner of the stage.
export const strokes = [];

function drawLines(start, ends, most) {
  const box = $("stage").getBoundingClientRect();
  const drawing = sized($("lines"), box.width, box.height);
  strokes.length = 0;
  if (!start) return;
  for (const { end, weight } of ends.reverse()) {
    if (!end || weight <= 0 || (end.x === start.x && end.top === start.top)) continue;
    const share = weight / most;
    const [x0, x1] = [start.x - box.left, end.x - box.left];
    let path;
    // Between tokens of one line, an arc above it, within the space between lines: tokens are in front of it.
    if (end.top === start.top && start.lift) {
      const y = start.top - box.top;
      path = `M ${x0} ${y} Q ${(x0 + x1) / 2} ${y - Math.min(20, 8 + Math.abs(x1 - x0) / 12)} ${x1} ${y}`;
    } else {
      const [y0, y1] = end.top > start.top ? [start.bottom - box.top, end.top - box.top] : [start.top - box.top, end.bottom - box.top];
      path = `M ${x0} ${y0} C ${x0} ${y0 + (start.lift * (y1 - y0)) / 2} ${x1} ${y1 - (end.lift * (y1 - y0)) / 2} ${x1} ${y1}`;
    }
    const opacity = 0.35 + 0.6 * share;
    strokes.push({ path, style: css("--paper"), width: 2.4 + 2.6 * share, opacity }, { path, style: css("--accent"), width: 0.6 + 2.6 * share, opacity });
  }
  for (const { path, style, width, opacity } of strokes) {
    Object.assign(drawing, { strokeStyle: style, lineWidth: width, globalAlpha: opacity });
    drawing.stroke(new Path2D(path));
  }
}

// Of words, their first tokens.
function explainGroups({ positions: [position] }) {
  return state.way === "query" ? explain(state.query, position) : explain(position, state.key);
}

function listStrongest(order, weights, { groups }) {
  $("list").replaceChildren(...order.map((at) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.title = "How this weight comes about";
    button.textContent = `${groups[at].label}  ${rounded(weights[at])}`;
    button.addEventListener("click", () => run(() => explainGroups(groups[at])));
    item.append(button);
    return item;
  }));
}

// What can be done here, which no control says.
function tellHow({ name, axis }) {
  const weigh = state.strongest ? "; click a weight to see how it comes about" : "";
  if (viewsOf(queries()).length || viewsOf(keys()).length) {
    $("hint").textContent = `Point at a token to choose it, or at a patch to see what attends to it, and click the patch to see what it attends to${weigh}.`;
    return;
  }
  const place = axis.kind === "patches" ? "patch (row, column)" : axis.kind === "count" ? "position" : "token";
  $("hint").textContent = `Point at a ${place} to choose the ${name}${weigh}.`;
}

// What a query gives to positions that are not drawn; what a key gets from them is no share of anything.
function tellHidden(group, { axis, groups }) {
  const shown = new Set(groups.flatMap(({ positions }) => positions));
  const hidden = Array.from({ length: axis.length }, (_, position) => position).filter((position) => !shown.has(position));
  const [rest] = hidden.length && state.way === "query" ? merged(view.maps, group.positions, [{ positions: hidden }]) : [0];
  $("hidden-mass").textContent = state.head !== "max" && !isDifference() && rest > data.error * hidden.length ? `Hidden positions get ${rounded(rest)} of the attention.` : "";
}

// Marks the row of the query, or the column of the key, in the map.
export function markLine() {
  const [{ name, groups }] = sides();
  const { from, groups: shown } = name === "query" ? view.down : view.across;
  const found = groups.findIndex(({ positions }) => positions.includes(state[name])) - from;
  const at = found < shown.length ? found : -1;
  for (const id of ["band", "a-band", "b-band"]) mark($(id), name, shown, at);
}

function mark(band, name, groups, at) {
  const [start, size] = [`${(100 * at) / groups.length}%`, `${100 / groups.length}%`];
  band.hidden = at < 0;
  Object.assign(band.style, name === "query" ? { top: start, height: size, left: "0", width: "100%" } : { left: start, width: size, top: "0", height: "100%" });
}
