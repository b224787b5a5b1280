// Copying the call, and the picture as a file.
import { host } from "./host.js";
import { $ } from "./state.js";
import { css, density } from "./draw.js";
import { drawMap } from "./map.js";
import { drawQuery, strokes } from "./query.js";

export async function copy() {
  const text = $("call").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Frames in notebooks may not use the clipboard.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
}

const MARGIN = 10;
const WIDEST = 8000;

// The query and the map, as on the screen, as parts of one picture: images, boxes, lines and text.
function picture() {
  const roots = [$("stage"), $("detail")].map((part) => part.getBoundingClientRect());
  const [left, top] = [Math.min(...roots.map((part) => part.left)) - MARGIN, Math.min(...roots.map((part) => part.top)) - MARGIN];
  const wide = Math.max(...roots.map((part) => part.right)) + MARGIN - left;
  const high = Math.max($("row-most").getBoundingClientRect().bottom, $("map-most").getBoundingClientRect().bottom) + MARGIN - top;
  const boxOf = (node) => { const box = node.getBoundingClientRect(); return [box.left - left, box.top - top, box.width, box.height]; };
  const every = (selector, partsOf) => [...host.root.querySelectorAll(selector)].filter((node) => node.getClientRects().length).flatMap((node) => partsOf(node, boxOf(node)));
  const [dx, dy] = boxOf($("stage"));
  return {
    wide,
    high,
    parts: [
      { kind: "box", box: [0, 0, wide, high], fill: css("--paper") },
      ...every("#stage .panel canvas:not([hidden]), #frame canvas:not([hidden]), .ramp", (node, box) => ({ kind: "image", node, box })),
      ...strokes.map((stroke) => ({ kind: "line", dx, dy, ...stroke })),
      ...every("#stage .token", tokenOf),
      ...every("main [data-print], #stage .medium, #stage .panel h3:not([hidden])", (node, box) => printOf(node, box, css("--ink"))),
    ],
  };
}

function tokenOf(node, [x, y, w, h]) {
  const { backgroundColor, color } = getComputedStyle(node);
  const chosen = node.classList.contains("chosen") ? [{ kind: "box", box: [x - 2, y - 2, w + 4, h + 4], stroke: css("--accent") }] : [];
  return [{ kind: "box", box: [x, y, w, h], fill: backgroundColor }, ...chosen, printOf(node, [x + 4, y, w - 8, h], color)];
}

function printOf(node, [x, y, , h], ink) {
  const { fontWeight, fontSize, fontFamily } = getComputedStyle(node);
  const text = [node.textContent, node.dataset.weight ?? ""].join(" ").trimEnd();
  return { kind: "text", text, x, y: y + h / 2, ink, weight: fontWeight, size: parseFloat(fontSize), family: fontFamily };
}

function pngOf({ wide, high, parts }, scale) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(scale * wide), Math.round(scale * high)];
  const drawing = canvas.getContext("2d");
  drawing.scale(scale, scale);
  /** @type {Record<string, (part: any) => void>} */
  const draw = {
    box({ box: [x, y, w, h], fill, stroke }) {
      Object.assign(drawing, { fillStyle: fill, strokeStyle: stroke, lineWidth: 2 });
      if (fill) drawing.fillRect(x, y, w, h);
      if (stroke) drawing.strokeRect(x, y, w, h);
    },
    image({ node, box: [x, y, w, h] }) {
      drawing.imageSmoothingEnabled = node.id !== "map";
      drawing.drawImage(node, x, y, w, h);
    },
    line({ dx, dy, path, style, width, opacity }) {
      drawing.save();
      drawing.translate(dx, dy);
      Object.assign(drawing, { strokeStyle: style, lineWidth: width, globalAlpha: opacity });
      drawing.stroke(new Path2D(path));
      drawing.restore();
    },
    text({ text, x, y, ink, weight, size, family }) {
      Object.assign(drawing, { font: `${weight} ${size}px ${family}`, fillStyle: ink, textAlign: "left", textBaseline: "middle" });
      drawing.fillText(text, x, y);
    },
  };
  for (const part of parts) draw[part.kind](part);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function svgOf({ wide, high, parts }, scale) {
  const element = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  const [width, height] = [scale * wide, scale * high].map(Math.round);
  const root = element("svg", { width, height, viewBox: `0 0 ${wide} ${high}` });
  /** @type {Record<string, (part: any) => Element>} */
  const elementOf = {
    box: ({ box: [x, y, w, h], fill = "none", stroke = "none" }) => element("rect", { x, y, width: w, height: h, fill, stroke, "stroke-width": 2 }),
    image: ({ node, box: [x, y, w, h] }) => element("image", { x, y, width: w, height: h, href: node.toDataURL(), preserveAspectRatio: "none", style: node.id === "map" ? "image-rendering: pixelated" : "" }),
    line: ({ dx, dy, path, style, width: line, opacity }) => element("path", { d: path, transform: `translate(${dx} ${dy})`, fill: "none", stroke: style, "stroke-width": line, "stroke-opacity": opacity }),
    // Not every program that draws SVG knows how to centre a line of text.
    text: ({ text, x, y, ink, weight, size, family }) => element("text", { x, y: y + 0.35 * size, fill: ink, "font-weight": weight, "font-size": size, "font-family": family, style: "white-space: pre" }, text),
  };
  root.append(...parts.map((part) => elementOf[part.kind](part)));
  return new Blob([new XMLSerializer().serializeToString(root)], { type: "image/svg+xml" });
}

// Saves the picture in the width that was chosen, in pixels, or in twice that of the screen.
export async function save(kind) {
  const { wide } = picture();
  const scale = Math.min(WIDEST, Number($("width").value) || 2 * wide) / wide;
  const redraw = async () => { await drawQuery(); return drawMap(() => true); };
  density.chosen = scale;
  await redraw();
  const blob = await (kind === "svg" ? svgOf : pngOf)(picture(), scale);
  density.chosen = null;
  await redraw();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `attention.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
