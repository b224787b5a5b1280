// The positions of an axis, over the image or as a line of tokens.
import { rounded } from "./scales.js";
import { $, data, layer, state, tableOf } from "./state.js";
import { isPadding, isSpecial, patchOf, placeOf } from "./positions.js";
import { colour } from "./draw.js";
import { Board } from "./board.js";
import { Gallery } from "./gallery.js";

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
  /** @type {((position: number, window: number, isPointed?: boolean) => void) | null} */
  choose = null;
  // The position that is chosen here.
  /** @type {number | null} */
  asked = null;

  // Shows one side of two, or that of the page.
  constructor(root, title, side = null) {
    this.root = root;
    this.own = side;
    this.root.replaceChildren();
    this.title = document.createElement("h3");
    this.title.textContent = title;
    this.tokens = document.createElement("div");
    this.tokens.className = "tokens";
    this.board = new Board();
    this.canvas = this.board.canvas;
    this.canvas.setAttribute("aria-hidden", "true");
    this.gallery = new Gallery(document.createElement("div"));
    this.root.append(this.title, this.tokens, this.canvas, this.gallery.root);
    this.tokens.addEventListener("pointerover", (/** @type {any} */ { target }) => {
      this.pick(target.dataset.positions?.split(" ")[0]);
      this.name(target);
    });
    this.tokens.addEventListener("click", (/** @type {any} */ { target }) => this.pick(target.dataset?.positions?.split(" ")[0]));
    this.tokens.addEventListener("keydown", (event) => this.move(event));
    for (const kind of ["pointermove", "pointerdown"]) this.canvas.addEventListener(kind, (event) => this.pickCell(event));
  }

  // Shows an axis; `choose` is called with a position and a window.
  show(axis, groups, choose) {
    Object.assign(this, { axis, groups, choose });
    const patches = axis.kind === "patches";
    // Groups with a span of their own, by their number; others are patches of the image.
    const inText = (position) => (patches ? position < axis.prefix.length : !patchOf(axis, position));
    this.spans = new Map([...groups.entries()].filter(([, { positions }]) => inText(positions[0])).map(([at, group]) => [at, this.span(group)]));
    this.groupOf = new Map(groups.flatMap(({ positions }, at) => positions.map((position) => [position, at])));
    this.steps = new Map();
    this.tokens.replaceChildren(...this.line(groups));
    this.gallery.show(axis, choose, this.side);
    this.root.classList.toggle("illustrated", !this.gallery.root.hidden);
    this.tokens.hidden = this.spans.size === 0;
    for (const [name, value] of [["tabindex", "0"], ["role", "application"], ["aria-label", "Arrow keys choose a token"]]) {
      if (choose) this.tokens.setAttribute(name, value);
      else this.tokens.removeAttribute(name);
    }
    this.tokens.dir = /^[^A-Za-z]*[\u0590-\u08ff\ufb1d-\ufefc]/.test(groups.filter(({ positions }) => !isSpecial(axis, positions[0])).map(({ label }) => label).join("")) ? "rtl" : "ltr";
    this.canvas.hidden = !patches;
  }

  // The tokens, and in place of those of an image its name.
  line(groups) {
    const named = new Set();
    return groups.flatMap(({ positions }, at) => {
      const span = this.spans.get(at);
      const view = span ? null : patchOf(this.axis, positions[0])?.view;
      if (!view || named.has(view)) return span ?? [];
      named.add(view);
      const name = document.createElement("span");
      name.className = "medium";
      name.textContent = view.name;
      return name;
    });
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

  // To the token before or after the one that is chosen.
  move(event) {
    const step = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: this.tokens.dir === "rtl" ? 1 : -1, ArrowRight: this.tokens.dir === "rtl" ? -1 : 1 }[event.key];
    if (!step || !this.choose) return;
    event.preventDefault();
    const at = this.groupOf.get(this.asked ?? -1) ?? -1;
    const numbers = [...this.spans.keys()];
    const next = step < 0 ? numbers.findLast((number) => number < at) : numbers.find((number) => number > at);
    if (next !== undefined) this.choose(this.groups[next].positions[0], state.window);
  }

  pickCell(event) {
    if (!this.choose) return;
    this.pickPlace(this.board.placeAt(event));
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

  // Weights of the groups, in their order, or null for positions without weights; `chosen` is one position. The images
  // of a text have a scale of their own.
  paint(weights, scale, chosen, ofImages = scale) {
    this.weights = weights;
    this.asked = chosen;
    for (const [at, span] of this.spans) {
      this.shade(at, span, weights ? scale.step(weights[at]) : null);
      // Cells beside an image are too few to compare by colour, and often beyond the scale.
      if (weights && this.axis.kind === "patches") span.dataset.weight = rounded(weights[at]);
    }
    this.chosen?.classList.remove("chosen");
    this.chosen = this.spanOf(chosen);
    this.chosen?.classList.add("chosen");
    if (this.axis.kind === "patches") this.paintImage(weights, scale, chosen);
    else this.gallery.paint(weights, this.groupOf, ofImages, (over) => tableOf(over, this.side), chosen);
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
    const { grid, size } = this.axis;
    const cells = weights && new Float32Array(grid[0] * grid[1]).fill(NaN);
    this.groups.forEach(({ positions: [position] }, at) => {
      const place = placeOf(this.axis, position);
      if (cells && place >= 0) cells[place] = weights[at];
    });
    const room = [Math.min(460, this.root.clientWidth || 460), 460];
    this.board.paint({ grid, size, picture: this.picture, room, cells, scale, table: this.table, place: chosen === null ? -1 : placeOf(this.axis, chosen) });
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
    if (this.axis.kind !== "patches") return this.gallery.anchor(position);
    const place = placeOf(this.axis, position);
    return place < 0 ? null : this.board.anchor(place);
  }
}

export const fromPanel = new Panel($("from"), "queries");
export const toPanel = new Panel($("to"), "keys");
