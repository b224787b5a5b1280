// Copying the call, and the picture as a file.
import { $ } from "./state.js";
import { css } from "./draw.js";

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

// Draws the query and the map, as on the screen, into one picture.
export async function save() {
  const parts = [$("stage"), $("detail")].map((part) => part.getBoundingClientRect());
  const [left, top] = [Math.min(...parts.map((part) => part.left)) - 10, Math.min(...parts.map((part) => part.top)) - 10];
  const wide = Math.max(...parts.map((part) => part.right)) + 10 - left;
  const high = Math.max($("row-most").getBoundingClientRect().bottom, $("map-most").getBoundingClientRect().bottom) + 10 - top;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * wide, 2 * high];
  const drawing = canvas.getContext("2d");
  drawing.scale(2, 2);
  drawing.fillStyle = css("--paper");
  drawing.fillRect(0, 0, wide, high);
  const boxOf = (node) => { const box = node.getBoundingClientRect(); return [box.left - left, box.top - top, box.width, box.height]; };
  for (const node of document.querySelectorAll("#stage .panel canvas:not([hidden]), #frame canvas:not([hidden]), .ramp")) {
    drawing.imageSmoothingEnabled = node.id !== "map";
    drawing.drawImage(node, ...boxOf(node));
  }
  for (const node of document.querySelectorAll("#stage .token")) printToken(drawing, node, boxOf(node));
  drawing.drawImage($("lines"), ...boxOf($("lines")));
  for (const node of document.querySelectorAll("main [data-print], .panel h3:not([hidden])")) printText(drawing, node, boxOf(node), css("--ink"));
  const link = document.createElement("a");
  link.href = canvas.toDataURL("image/png");
  link.download = "attention.png";
  link.click();
}

function printToken(drawing, node, [x, y, w, h]) {
  const style = getComputedStyle(node);
  drawing.fillStyle = style.backgroundColor;
  drawing.fillRect(x, y, w, h);
  if (node.classList.contains("chosen")) { drawing.strokeStyle = css("--accent"); drawing.lineWidth = 2; drawing.strokeRect(x - 2, y - 2, w + 4, h + 4); }
  printText(drawing, node, [x + 4, y, w - 8, h], style.color);
}

function printText(drawing, node, [x, y, , h], ink) {
  const style = getComputedStyle(node);
  drawing.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  drawing.fillStyle = ink;
  drawing.textAlign = "left";
  drawing.textBaseline = "middle";
  drawing.fillText([node.textContent, node.dataset.weight ?? ""].join(" ").trimEnd(), x, y + h / 2);
}
