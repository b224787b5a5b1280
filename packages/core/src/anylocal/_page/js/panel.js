// The positions of an axis, over the image or as a line of tokens.
import { rounded } from "./scales.js";
import { $, data, layer, state, tableOf } from "./state.js";
import { isPadding, isSpecial, placeOf } from "./positions.js";
import { canvasOf, colour, css, imageOf, sized } from "./draw.js";

const picturesOf = (sources) => sources.map((source) => {
  if (!source) return null;
  const image = new Image();
  image.src = source;
  return image;
});
export const pictures = picturesOf(data.images);
export const otherPictures = picturesOf(data.otherImages ?? []);

// Whether black text has more contrast than white: see the relative luminance of WCAG.
function isLight(shade) {
  const [red, green, blue] = shade.map((value) => (value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179;
}

export class Panel {
  /** @type {any} */
  axis;
  /** @type {any[]} */
  groups = [];
  /** @type {((position: number, window: number) => void) | null} */
  choose = null;

  // Shows one side of two, or that of the page.
  constructor(root, title, side = null) {
    this.root = root;
    this.own = side;
    this.root.replaceChildren();
    this.title = document.createElement("h3");
    this.title.textContent = title;
    this.tokens = document.createElement("div");
    this.tokens.className = "tokens";
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.root.append(this.title, this.tokens, this.canvas);
    this.tokens.addEventListener("pointerover", (/** @type {any} */ { target }) => {
      this.pick(target.dataset.positions?.split(" ")[0]);
      this.name(target);
    });
    this.tokens.addEventListener("click", (/** @type {any} */ { target }) => this.pick(target.dataset?.positions?.split(" ")[0]));
    for (const kind of ["pointermove", "pointerdown"]) this.canvas.addEventListener(kind, (event) => this.pickCell(event));
  }

  // Shows an axis; `choose` is called with a position and a window.
  show(axis, groups, choose) {
    Object.assign(this, { axis, groups, choose });
    const patches = axis.kind === "patches";
    // Groups with a span of their own, by their number; others are patches of the image.
    this.spans = new Map([...groups.entries()].filter(([, { positions }]) => !patches || positions[0] < axis.prefix.length).map(([at, group]) => [at, this.span(group)]));
    this.groupOf = new Map(groups.flatMap(({ positions }, at) => positions.map((position) => [position, at])));
    this.steps = new Map();
    this.tokens.replaceChildren(...this.spans.values());
    this.tokens.hidden = this.spans.size === 0;
    this.tokens.dir = /^[^A-Za-z]*[\u0590-\u08ff\ufb1d-\ufefc]/.test(groups.filter(({ positions }) => !isSpecial(axis, positions[0])).map(({ label }) => label).join("")) ? "rtl" : "ltr";
    this.canvas.hidden = !patches;
  }

  span({ label, positions }) {
    const span = document.createElement("span");
    span.className = "token";
    span.classList.toggle("padding", isPadding(this.axis, positions[0]));
    span.textContent = label.replaceAll("\n", "⏎").replace(/^\s*$/, "␣");
    span.dataset.positions = positions.join(" ");
    return span;
  }

  pick(position) {
    if (position !== undefined && this.choose) this.choose(Number(position), state.window);
  }

  pickCell(event) {
    if (!this.choose) return;
    const box = this.canvas.getBoundingClientRect();
    const [rows, columns] = this.axis.grid;
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
    this.pickPlace(row * columns + column);
  }

  // In a windowed layer, the place also determines the window.
  pickPlace(place) {
    const windows = layer().shape[1];
    for (let nth = 0; nth < windows; nth++) {
      const window = (state.window + nth) % windows;
      for (let position = this.axis.prefix.length; position < this.axis.length; position++) {
        if (placeOf(this.axis, position, window) === place) return this.choose(position, window);
      }
    }
  }

  get side() {
    return this.own ?? state.side;
  }

  get picture() {
    const own = this.side === "b" ? otherPictures : pictures;
    return this.axis.kind === "patches" ? own[state.sample % Math.max(1, own.length)] : null;
  }

  get table() {
    return tableOf(Boolean(this.picture), this.side);
  }

  // Weights of the groups, in their order, or null for positions without weights; `chosen` is one position.
  paint(weights, scale, chosen) {
    this.weights = weights;
    for (const [at, span] of this.spans) {
      this.shade(at, span, weights ? scale.step(weights[at]) : null);
      // Cells beside an image are too few to compare by colour, and often beyond the scale.
      if (weights && this.axis.kind === "patches") span.dataset.weight = rounded(weights[at]);
    }
    this.chosen?.classList.remove("chosen");
    this.chosen = this.spanOf(chosen);
    this.chosen?.classList.add("chosen");
    if (this.axis.kind === "patches") this.paintImage(weights, scale, chosen);
  }

  // Of thousands of tokens, most keep their colour from one query to the next.
  shade(at, span, step) {
    if (this.steps.get(at) === step) return;
    this.steps.set(at, step);
    const shade = step === null ? null : colour(this.table, step);
    span.style.background = shade ? `rgb(${shade.join(" ")})` : "";
    span.style.color = shade ? (isLight(shade) ? "#000" : "#fff") : "";
  }

  spanOf(position) {
    return this.spans.get(this.groupOf.get(position));
  }

  // The weight of the token under the pointer.
  name(span) {
    const at = this.groupOf.get(Number(span.dataset.positions?.split(" ")[0]));
    if (this.weights && this.spans.has(at)) span.title = `${span.textContent}: ${rounded(this.weights[at])}`;
  }

  paintImage(weights, scale, chosen) {
    const [rows, columns] = this.axis.grid;
    const { picture } = this;
    const [high, wide] = this.axis.size ?? (picture ? [picture.naturalHeight, picture.naturalWidth] : [rows, columns]);
    const most_wide = Math.min(460, this.root.clientWidth || 460);
    const width = Math.min(most_wide, (460 * wide) / high);
    const height = (width * high) / wide;
    const drawing = sized(this.canvas, width, height);
    drawing.fillStyle = css("--empty");
    drawing.fillRect(0, 0, width, height);
    if (picture?.naturalWidth) drawing.drawImage(picture, 0, 0, width, height);
    if (weights) {
      const cells = new Float32Array(rows * columns).fill(NaN);
      this.groups.forEach(({ positions: [position] }, at) => {
        const place = placeOf(this.axis, position);
        if (place >= 0) cells[place] = weights[at];
      });
      drawing.imageSmoothingEnabled = false;
      drawing.drawImage(canvasOf(imageOf(cells, columns, rows, scale, this.table)), 0, 0, width, height);
    }
    const place = chosen === null ? -1 : placeOf(this.axis, chosen);
    if (place < 0) return;
    const [x, y, w, h] = [(place % columns) * (width / columns), Math.floor(place / columns) * (height / rows), width / columns, height / rows];
    for (const [style, line] of [["#000", 4], ["#fff", 2]]) {
      drawing.strokeStyle = style;
      drawing.lineWidth = line;
      drawing.strokeRect(x, y, w, h);
    }
  }

  // Scrolls a token into sight, if it is not.
  reveal(position) {
    const span = this.spanOf(position);
    if (!span || this.isInSight(span)) return;
    const box = this.tokens.getBoundingClientRect();
    this.tokens.scrollTop += span.getBoundingClientRect().top - box.top - box.height / 2;
  }

  isInSight(span) {
    const [box, whole] = [span, this.tokens].map((node) => node.getBoundingClientRect());
    const middle = (box.top + box.bottom) / 2;
    return middle >= whole.top && middle <= whole.bottom;
  }

  // The centre of a position on the screen; none where it is scrolled out of sight.
  anchor(position) {
    const span = this.spanOf(position);
    if (span) {
      if (!this.isInSight(span)) return null;
      const box = span.getBoundingClientRect();
      return { x: box.left + box.width / 2, top: box.top, bottom: box.bottom, lift: 1 };
    }
    const place = this.axis.kind === "patches" ? placeOf(this.axis, position) : -1;
    if (place < 0) return null;
    const box = this.canvas.getBoundingClientRect();
    const [rows, columns] = this.axis.grid;
    const y = box.top + (Math.floor(place / columns) + 0.5) * (box.height / rows);
    return { x: box.left + ((place % columns) + 0.5) * (box.width / columns), top: y, bottom: y, lift: 0 };
  }
}

export const fromPanel = new Panel($("from"), "queries");
export const toPanel = new Panel($("to"), "keys");
