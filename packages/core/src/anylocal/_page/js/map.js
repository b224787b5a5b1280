// The map of the chosen head.
import { greatest, scaleOf } from "./scales.js";
import { $, TABLES, data, keys, layer, normOf, queries, sharedTop, state, view } from "./state.js";
import { countedOf } from "./positions.js";
import { wholeOf } from "./weights.js";
import { css, drawLegend, imageOf, sized } from "./draw.js";

export function drawMap() {
  const whole = wholeOf(view.maps, view.rows, view.columns);
  const [down, across] = [countedOf(queries(), view.rows), countedOf(keys(), view.columns)];
  const counted = new Float32Array(down.length * across.length);
  down.forEach((row, y) => across.forEach((column, x) => { counted[y * across.length + x] = whole[row * view.columns.length + column]; }));
  const scale = scaleOf(counted, across.length, greatest(whole), normOf("sqrt"), data, sharedTop());
  const canvas = $("map");
  [canvas.width, canvas.height] = [view.columns.length, view.rows.length];
  // Cells are square, unless one side of the map is more than four times the other.
  canvas.style.aspectRatio = String(Math.min(4, Math.max(0.25, view.columns.length / view.rows.length)));
  canvas.getContext("2d").putImageData(imageOf(whole, view.columns.length, view.rows.length, scale, TABLES.map), 0, 0);
  Object.assign(drawMap, { whole });
  drawLabels();
  drawLegend("map", scale, TABLES.map);
  const count = layer().shape[2];
  const together = count > 1 && (state.head === "mean" || state.head === "max");
  const heads = together ? `${state.head} of ${count} heads` : `head ${count > 1 ? state.head : 0}`;
  $("heading").textContent = [layer().name || `layer ${layer().ref}`, heads].join(", ");
}

// Labels beside the map, if they are few enough to be readable.
function drawLabels() {
  const few = view.rows.length <= 48 && view.columns.length <= 48;
  for (const id of ["left", "top"]) $(id).hidden = !few;
  if (!few) return;
  const measure = $("left").getContext("2d");
  const size = (count) => Math.max(6, Math.min(11, (0.9 * $("frame").clientWidth) / count / 1.15));
  const width = (groups) => {
    measure.font = `${size(groups.length)}px system-ui, sans-serif`;
    return Math.min(90, 6 + Math.max(...groups.map(({ label }) => measure.measureText(label).width)));
  };
  const [left, top] = [width(view.rows), width(view.columns)];
  sized($("left"), left, 1);
  const map = { width: $("map").clientWidth, height: $("map").clientHeight };
  writeLabels(sized($("left"), left, map.height), view.rows, size(view.rows.length), left, (drawing, at) => drawing.translate(left - 4, ((at + 0.5) * map.height) / view.rows.length), "right");
  writeLabels(sized($("top"), map.width, top), view.columns, size(view.columns.length), top, (drawing, at) => {
    drawing.translate(((at + 0.5) * map.width) / view.columns.length, top - 4);
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
