// The attention of one query.
import { greatest, rounded, scaleOf } from "./scales.js";
import { $, data, isShared, keys, normOf, queries, sharedTop, state, view } from "./state.js";
import { countedOf, labelOf } from "./positions.js";
import { merged } from "./weights.js";
import { css, drawLegend, sized } from "./draw.js";
import { fromPanel, toPanel } from "./panel.js";
import { call } from "./call.js";

export function drawQuery() {
  const group = view.rows.find(({ positions }) => positions.includes(state.query)) ?? { label: labelOf(queries(), state.query), positions: [state.query] };
  const weights = merged(view.maps, group.positions, view.columns);
  view.weights = weights;
  const most = greatest(weights);
  const counted = countedOf(keys(), view.columns);
  const scale = scaleOf(counted.map((at) => weights[at]), counted.length, most, normOf("linear"), data, sharedTop());
  $("asked").textContent = `What ${group.label} attends to`;
  toPanel.paint(weights, scale, isShared() ? state.query : null);
  if (!isShared()) fromPanel.paint(null, null, state.query);
  drawLegend("row", scale, toPanel.table);
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, state.strongest);
  drawLines(order, weights, most);
  listStrongest(order, weights, group);
  markRow();
  $("query").value = String(state.query);
  $("query").setAttribute("aria-valuetext", group.label);
  $("call").textContent = call();
}

function drawLines(order, weights, most) {
  const box = $("stage").getBoundingClientRect();
  const drawing = sized($("lines"), box.width, box.height);
  const start = (isShared() ? toPanel : fromPanel).anchor(state.query);
  if (!start) return;
  for (const at of [...order].reverse()) {
    const end = toPanel.anchor(view.columns[at].positions[0]);
    if (!end || weights[at] <= 0 || (end.x === start.x && end.top === start.top)) continue;
    const share = weights[at] / most;
    const path = new Path2D();
    const [x0, x1] = [start.x - box.left, end.x - box.left];
    // Between tokens of one line, an arc above it: a straight line would cross them out.
    if (end.top === start.top && start.lift) {
      const y = start.top - box.top;
      path.moveTo(x0, y);
      path.quadraticCurveTo((x0 + x1) / 2, y - Math.min(30, 10 + Math.abs(x1 - x0) / 9), x1, y);
    } else {
      const [y0, y1] = end.top > start.top ? [start.bottom - box.top, end.top - box.top] : [start.top - box.top, end.bottom - box.top];
      path.moveTo(x0, y0);
      path.bezierCurveTo(x0, y0 + (start.lift * (y1 - y0)) / 2, x1, y1 - (end.lift * (y1 - y0)) / 2, x1, y1);
    }
    for (const [style, width] of [[css("--paper"), 2.4 + 2.6 * share], [css("--accent"), 0.6 + 2.6 * share]]) {
      drawing.strokeStyle = style;
      drawing.globalAlpha = 0.35 + 0.6 * share;
      drawing.lineWidth = width;
      drawing.stroke(path);
    }
  }
}

function listStrongest(order, weights, group) {
  $("list").replaceChildren(...order.map((at) => {
    const item = document.createElement("li");
    item.textContent = `${view.columns[at].label}  ${rounded(weights[at])}`;
    return item;
  }));
  const shown = new Set(view.columns.flatMap(({ positions }) => positions));
  const hidden = Array.from({ length: keys().length }, (_, position) => position).filter((position) => !shown.has(position));
  const [rest] = merged(view.maps, group.positions, [{ positions: hidden }]);
  $("hidden-mass").textContent = state.head !== "max" && rest > data.error * hidden.length ? `Hidden positions get ${rounded(rest)} of the attention.` : "";
}

export function markRow() {
  const at = view.rows.findIndex(({ positions }) => positions.includes(state.query));
  $("band").hidden = at < 0;
  $("band").style.top = `${(100 * at) / view.rows.length}%`;
  $("band").style.height = `${100 / view.rows.length}%`;
}
