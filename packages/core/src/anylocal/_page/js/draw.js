// Canvases, colours and legends.
import { host } from "./host.js";
import { $, data } from "./state.js";

// The colour of a step as it is on a grey ground, if it lets light through.
export function colour(table, step) {
  const opacity = table[4 * step + 3] / 255;
  return [0, 1, 2].map((channel) => Math.round(opacity * table[4 * step + channel] + (1 - opacity) * data.colours.background));
}

export function imageOf(values, width, height, scale, table) {
  const image = new ImageData(width, height);
  for (let at = 0; at < values.length; at++) {
    // NaN where no window holds a patch.
    if (Number.isNaN(values[at])) continue;
    const step = 4 * scale.step(values[at]);
    image.data.set(table.subarray(step, step + 4), 4 * at);
  }
  return image;
}

// Draws the legend of a scale; a triangle at its end stands for greater weights.
export function drawLegend(name, scale, table) {
  const legend = $(`${name}-ramp`).parentElement;
  // Both ends of differences are long; they are below the colours.
  legend.classList.toggle("signed", scale.isSigned);
  const [width, height, tip] = [scale.isSigned ? legend.clientWidth || 128 : 128, 9, scale.isClipped ? 8 : 0];
  const drawing = sized($(`${name}-ramp`), width, height);
  drawing.beginPath();
  for (const [x, y] of [[0, 0], [width - tip, 0], [width, height / 2], [width - tip, height], [0, height]]) drawing.lineTo(x, y);
  drawing.closePath();
  drawing.save();
  drawing.clip();
  for (let x = 0; x < width; x++) {
    drawing.fillStyle = `rgb(${colour(table, Math.min(255, Math.round((255 * x) / (width - tip)))).join(" ")})`;
    drawing.fillRect(x, 0, 1.5, height);
  }
  drawing.restore();
  // Or the light end of the colours would be lost on light paper, and the dark one on dark paper.
  drawing.strokeStyle = css("--quiet");
  drawing.stroke();
  $(`${name}-least`).textContent = scale.least;
  $(`${name}-most`).textContent = scale.most;
  $(`${name}-ramp`).dataset.top = String(scale.top);
}

export function canvasOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

export const css = (name) => getComputedStyle(host.shell).getPropertyValue(name).trim();

// How many pixels a canvas has for one of CSS: as many as the screen, but in a picture that is saved.
export const density = { chosen: null };

// Sets the size of a canvas in CSS pixels, and draws sharply on any screen.
export function sized(canvas, width, height) {
  const ratio = density.chosen ?? (window.devicePixelRatio || 1);
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}
