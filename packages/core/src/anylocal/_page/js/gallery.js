// The images and videos of a text: a grid of patches for each view of an image, and for each frame of a video.
import { rounded } from "./scales.js";
import { data, isDifference, queries, state } from "./state.js";
import { patchOf, viewsOf } from "./positions.js";
import { Board } from "./board.js";

/** @type {HTMLImageElement[]} */
export const textPictures = (data.pictures ?? []).map((source) => Object.assign(new Image(), { src: source }));

// Rows and columns to go.
export const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const GAP = 12;

export class Gallery {
  /** @type {any} */
  axis = null;
  /** @type {any[]} */
  frames = [];
  /** @type {((position: number, window: number, isPointed?: boolean) => void) | null} */
  choose = null;
  // The position that the pointer was last at.
  pointed = -1;

  constructor(root) {
    this.root = root;
    this.root.className = "media";
  }

  // Shows the images of an axis; `side` is which of two captures their pictures are of.
  show(axis, choose, side) {
    const views = viewsOf(axis);
    Object.assign(this, { axis, choose });
    this.root.hidden = !views.length;
    // What has the focus stays.
    if (this.frames.length !== views.length) {
      this.frames = views.map(() => this.frame());
      this.root.replaceChildren(...this.frames.map(({ figure }) => figure));
    }
    const own = side === "b" && data.sides ? viewsOf(data.axes[data.sides[1][state.layer][axis === queries() ? "queries" : "keys"]]) : views;
    views.forEach((view, at) => {
      const picture = (own[at] ?? view).picture;
      const [rows, columns] = view.grid;
      Object.assign(this.frames[at], { view, picture: picture === null ? null : textPictures[picture] });
      this.frames[at].board.canvas.setAttribute("aria-label", `${view.name}, ${rows} × ${columns} patches: arrow keys choose a patch and show what attends to it, Enter shows what it attends to`);
    });
  }

  frame() {
    const [figure, caption, board] = [document.createElement("div"), document.createElement("h3"), new Board()];
    const frame = { figure, caption, board, view: /** @type {any} */ (null), picture: /** @type {any} */ (null) };
    board.canvas.tabIndex = 0;
    board.canvas.setAttribute("role", "application");
    figure.append(caption, board.canvas);
    const pick = (position, isPointed) => { if (position >= 0 && this.choose) this.choose(position, state.window, isPointed); };
    const under = (event) => frame.view.positions[board.placeAt(event)];
    board.canvas.addEventListener("pointerdown", (event) => pick(under(event), true));
    board.canvas.addEventListener("pointermove", (event) => {
      const position = under(event);
      // A patch that was clicked stays what it is until the pointer leaves it.
      if (position !== this.pointed) pick(position, true);
      this.pointed = position;
    });
    board.canvas.addEventListener("pointerleave", () => { this.pointed = -1; });
    board.canvas.addEventListener("click", (/** @type {any} */ event) => { if (event.pointerType !== "touch") pick(under(event), false); });
    board.canvas.addEventListener("keydown", (event) => this.move(event, frame.view, pick));
    return frame;
  }

  // Arrow keys go to the next patch in their direction that the axis contains.
  move(event, view, pick) {
    const chosen = patchOf(this.axis, state[state.way]);
    const place = chosen?.view === view ? chosen.place : -1;
    if (event.key === "Enter" && place >= 0) {
      event.preventDefault();
      return pick(view.positions[place], false);
    }
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    const [rows, columns] = view.grid;
    if (place < 0) return pick(view.positions.find((position) => position >= 0), true);
    let [row, column] = [Math.floor(place / columns), place % columns];
    do {
      row += step[0];
      column += step[1];
      if (row < 0 || row >= rows || column < 0 || column >= columns) return;
    } while (view.positions[row * columns + column] < 0);
    pick(view.positions[row * columns + column], true);
  }

  // Weights of the groups, by the number of each position's group, or null.
  paint(weights, groupOf, scale, table, chosen) {
    // Rounded down, or the last of a row would have no room in it.
    const [width, count] = [Math.floor(this.root.getBoundingClientRect().width) || 300, this.frames.length];
    // Many are as small as can be told apart.
    const across = Math.min(count, Math.max(1, Math.floor((width + GAP) / (count > 4 ? 110 : 170))));
    const room = [Math.min(460, Math.floor((width - GAP * (across - 1)) / across)), count > 1 ? 300 : 460];
    const asked = chosen === null ? null : patchOf(this.axis, chosen);
    for (const { figure, board, caption, view, picture } of this.frames) {
      const cells = weights && Float32Array.from(view.positions, (position) => (groupOf.has(position) ? weights[groupOf.get(position)] : NaN));
      board.paint({ grid: view.grid, size: view.size, picture, room, cells, scale, table: table(Boolean(picture)), place: asked?.view === view ? asked.place : -1 });
      figure.style.width = board.canvas.style.width;
      const sum = cells?.reduce((total, weight) => total + (Number.isNaN(weight) ? 0 : weight), 0);
      // Of what attends to a key, and of maxima, the sum is no share of anything.
      const isShare = cells && state.way === "query" && state.head !== "max";
      caption.textContent = isShare ? `${view.name}: ${isDifference() && sum > 0 ? "+" : ""}${rounded(sum)} of the attention` : view.name;
    }
  }

  anchor(position) {
    const patch = patchOf(this.axis, position);
    return patch && this.frames.find(({ view }) => view === patch.view)?.board.anchor(patch.place);
  }
}
