// All heads of all layers, as thumbnails.
import { SQUARES, split } from "./bytes.js";
import { rounded } from "./scales.js";
import { $, data, described, isDifference, normOf, state, tableOf } from "./state.js";
import { scaleHere } from "./signed.js";
import { headsOf } from "./weights.js";
import { canvasOf, css, imageOf, sized } from "./draw.js";

export const overview = { cell: 0, left: 0, top: 16, thumbs: null };

export function readThumbs(buffer) {
  const count = described.reduce((sum, { shape }) => sum + data.samples.length * shape[2], 0);
  const { scales, bytes } = split(buffer, count);
  let block = 0;
  let start = 0;
  overview.thumbs = described.map(({ thumbs }) =>
    thumbs.map(({ shape: [rows, columns], tops }) =>
      tops.map((top) => {
        const values = new Float32Array(rows * columns);
        for (let at = 0; at < values.length; at++) values[at] = scales[block] * SQUARES[bytes[start + at]];
        block += 1;
        start += values.length;
        return { values, rows, columns, top };
      })));
}

// The thumbnails of a layer, by sample and head: those of a side, or their differences.
export function thumbsOf(number) {
  const own = overview.thumbs[number];
  if (state.side === "a") return own;
  const other = overview.thumbs[number + data.layers.length];
  if (state.side === "b") return other;
  return own.map((heads, sample) => heads.map((thumb, head) => ({ ...thumb, values: thumb.values.map((value, at) => value - other[sample][head].values[at]) })));
}

export function drawGrid() {
  const canvas = $("grid");
  const columns = Math.max(...data.layers.map(({ shape }) => shape[2]));
  const context = canvas.getContext("2d");
  context.font = "11px system-ui, sans-serif";
  overview.left = 8 + Math.max(...data.layers.map(({ short }) => context.measureText(short).width));
  const room = $("overview").clientWidth - overview.left;
  overview.cell = Math.max(10, Math.min(52, room / columns));
  const drawing = sized(canvas, overview.left + overview.cell * columns, overview.top + overview.cell * data.layers.length);
  drawing.font = "11px system-ui, sans-serif";
  drawing.fillStyle = css("--quiet");
  drawing.textAlign = "center";
  const every = Math.ceil(18 / overview.cell);
  for (let head = 0; head < columns; head += every) drawing.fillText(String(head), overview.left + (head + 0.5) * overview.cell, 11);
  data.layers.forEach((_, number) => drawRow(drawing, number));
  markGrid(drawing);
  const norm = normOf("sqrt");
  const ends = isDifference() ? "are the differences a − b: red where a has more, blue where b has, grey without a difference" : norm === "rank" ? "by rank in each map" : `(${norm}) up to ${sharedEnd() ? `${rounded(sharedEnd())} in all maps` : "a robust maximum of each map"}`;
  $("grid-note").textContent = `One row per layer, one column per head; colours ${ends}.`;
}

const sharedEnd = () => (state.scale === "one" && !isDifference() ? (state.side === "b" ? data.otherTops : data.tops)[state.sample] : null);

function drawRow(drawing, number) {
  const { cell, left, top } = overview;
  drawing.fillStyle = css("--quiet");
  drawing.textAlign = "right";
  drawing.fillText(data.layers[number].short, left - 5, top + (number + 0.5) * cell + 4);
  thumbsOf(number)[state.sample].forEach((thumb, head) => {
    const scale = scaleHere(thumb.values, thumb.values, thumb.columns, "sqrt", sharedEnd() ?? thumb.top);
    const image = canvasOf(imageOf(thumb.values, thumb.columns, thumb.rows, scale, tableOf(false)));
    drawing.imageSmoothingEnabled = thumb.columns > cell;
    drawing.drawImage(image, left + head * cell, top + number * cell, cell - 2, cell - 2);
  });
}

// On a rim of the paper's colour, or the frame would be lost among the colours of the maps.
function markGrid(drawing) {
  const { cell, left, top } = overview;
  const heads = headsOf();
  for (const [style, line] of [["--paper", 6], ["--accent", 3]]) {
    drawing.strokeStyle = css(style);
    drawing.lineWidth = line;
    drawing.strokeRect(left + heads[0] * cell - 1, top + state.layer * cell - 1, heads.length * cell, cell);
  }
}
