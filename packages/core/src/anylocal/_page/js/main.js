// State and events.
import { unpack } from "./bytes.js";
import { host } from "./host.js";
import { clamp, rounded } from "./scales.js";
import { $, data, isDifference, isShared, keys, layer, queries, state, view } from "./state.js";
import { groupsOf, isHidden, patchOf, viewsOf } from "./positions.js";
import { drawGrid, overview, readThumbs } from "./overview.js";
import { fromPanel, otherPictures, pictures, toPanel } from "./panel.js";
import { ARROWS, textPictures } from "./gallery.js";
import { LABELLED, drawMap, sketchMap } from "./map.js";
import { drawQuery, markLine, sides } from "./query.js";
import { isBeyond, placeParts } from "./near.js";
import { drawPair, drawPairMaps, openPair, openSide, showPair } from "./pair.js";
import { fillFilm, fillSteps, fitFilm, tellStep } from "./film.js";
import { fold } from "./fold.js";
import { find } from "./find.js";
import { explain } from "./making.js";
import { report, run } from "./report.js";
import { openDoor, recall, remember } from "./door.js";
import { copy, save } from "./save.js";

// Whose weights the reader asked for, before pointing at a patch of an image in a text.
let usual = state.way;

// Asks for a query, or for a key.
function choose(position, window, way = usual) {
  const turned = way !== state.way;
  state.way = way;
  const [{ name }] = sides();
  const another = window !== state.window;
  if (!another && !turned && position === state[name]) return;
  state.window = window;
  ask(name, position);
  $("window").value = String(window);
  if (turned) fitControls();
  sides()[0].panel.reveal(position);
  remember();
  return another || (turned && !isShared()) || isBeyond() ? run(update) : run(drawAsked);
}

// Pointing at a patch of an image in a text shows which words attend to it: what it attends to comes before it.
const chooseAny = (position, window, isPointed = false) => choose(position, window, isPointed && patchOf(queries(), position) ? "key" : usual);
const chooseAs = (way) => (position, window) => choose(position, window, way);

async function drawAsked() {
  await drawQuery();
  drawPair();
  tellStep();
}

// One position is both the query and the key where both sides are the same.
function ask(name, position) {
  state[name] = position;
  if (isShared()) state.query = state.key = position;
}

function fillControls() {
  const options = (values) => values.map(([value, text]) => new Option(text, String(value)));
  $("layer").replaceChildren(...options(data.layers.map(({ name, short }, at) => [at, name || short])));
  $("sample").replaceChildren(...options(data.samples.map((sample, at) => [at, sample])));
  $("side-label").hidden = !data.others;
  // Where there is a filmstrip, it is enough.
  $("sample-label").hidden = data.samples.length === 1 || data.images.length > 1;
  $("find-label").hidden = !data.axes.some(({ kind }) => kind === "tokens" || kind === "names");
  $("words-label").hidden = !data.axes.some(({ words }) => words);
  $("near-label").hidden = !data.axes.some(({ kind, length }) => (kind === "tokens" || kind === "names") && length > LABELLED);
  const any = (rows) => rows?.some((row) => row.some(Boolean));
  $("special-label").hidden = !data.axes.some((axis) => any(axis.special) || axis.prefix?.length);
  $("padding-label").hidden = !data.axes.some((axis) => any(axis.padding) || axis.places?.some((places) => places.includes(-1)));
}

function fitControls() {
  const [, windows, heads] = layer().shape;
  if (typeof state.head === "number") state.head = clamp(state.head, heads);
  state.window = clamp(state.window, windows);
  state.query = clamp(state.query, queries().length);
  state.key = clamp(state.key, keys().length);
  const choices = [...Array.from({ length: heads }, (_, head) => [head, `${head}`]), ["mean", "mean of heads"], ["max", "max of heads"]];
  if ($("head").options.length !== choices.length) $("head").replaceChildren(...choices.map(([value, text]) => new Option(String(text), String(value))));
  $("layer").value = String(state.layer);
  $("head").value = String(state.head);
  $("window-label").hidden = windows === 1;
  $("window").max = String(windows - 1);
  $("window").value = String(state.window);
  $("scale").disabled = isDifference();
  for (const id of ["side", "sample", "way", "norm", "scale", "strongest"]) $(id).value = String(state[id]);
  for (const id of ["padding", "special", "words", "near"]) $(id).checked = state[id];
  fitFilm();
  $("query").max = String((state.way === "query" ? queries() : keys()).length - 1);
  $("query-name").textContent = state.way === "query" ? "Query" : "Key";
}

async function redraw(changes) {
  Object.assign(state, changes);
  usual = changes.way ?? usual;
  if (isShared()) state.query = state.key = changes[state.way] ?? changes.query ?? changes.key ?? state.query;
  await update();
  const [{ name, panel }] = sides();
  panel.reveal(state[name]);
}

let turn = 0;
async function update() {
  const own = (turn += 1);
  fitControls();
  const found = await openSide(state.layer, state.side);
  const pair = await openPair();
  // Another layer was selected while this one was unpacked.
  if (own !== turn) return;
  Object.assign(view, { maps: found, pair });
  view.rows = groupsOf(queries());
  view.columns = groupsOf(keys());
  const [asked, other] = sides();
  // A hidden position cannot be asked for.
  if (isHidden(asked.axis, state[asked.name])) ask(asked.name, asked.groups[0].positions[0]);
  $("from").hidden = isShared();
  toPanel.title.hidden = isShared();
  // Beside images, either side can be pointed at.
  const either = viewsOf(queries()).length > 0 || viewsOf(keys()).length > 0;
  other.panel.show(other.axis, other.groups, isShared() ? chooseAny : either ? chooseAs(other.name) : null);
  if (!isShared()) asked.panel.show(asked.axis, asked.groups, either ? chooseAs(asked.name) : choose);
  showPair(chooseAny);
  drawGrid();
  placeParts();
  const drawn = drawAsked();
  placeParts();
  sketchMap();
  host.shell.dataset.sketched ??= performance.now().toFixed(0);
  await drawn;
  placeParts();
  const isCurrent = () => own === turn;
  if (!(await drawMap(isCurrent)) || !(await drawPairMaps(isCurrent))) return;
  markLine();
  host.shell.dataset.turn = String(turn);
  remember();
}

function listen() {
  const number = (text) => (/^\d+$/.test(text) ? Number(text) : text);
  for (const id of ["side", "layer", "head", "sample", "way", "norm", "scale", "window", "strongest"]) {
    $(id).addEventListener("input", () => {
      if ($(id).value === "") return;
      state[id] = number($(id).value);
      if (id === "way") usual = state.way;
      state.strongest = clamp(state.strongest, 21);
      run(update);
    });
  }
  for (const id of ["padding", "special", "words", "near"]) $(id).addEventListener("input", () => { state[id] = $(id).checked; run(update); });
  $("query").addEventListener("input", () => choose(Number($("query").value), state.window, state.way));
  fillFilm((sample) => { state.sample = sample; run(update); });
  fillSteps((query) => {
    // A step is of a query.
    const another = state.way !== "query";
    usual = state.way = "query";
    choose(query, state.window);
    if (another) run(update);
  });
  $("find").addEventListener("input", () => find(0, choose));
  $("find").addEventListener("keydown", (event) => { if (event.key === "Enter") find(event.shiftKey ? -1 : 1, choose); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("grid").addEventListener("click", (event) => chooseCell(event));
  $("grid").addEventListener("keydown", (event) => moveCell(event));
  for (const id of ["map", "a-map", "b-map"]) for (const kind of ["pointermove", "pointerdown"]) $(id).addEventListener(kind, (event) => readMap(event));
  $("map").addEventListener("click", explainCell);
  $("map").addEventListener("keydown", (event) => moveRow(event));
  $("theme").addEventListener("click", () => setTheme(host.shell.dataset.theme !== "dark"));
  for (const { tokens } of [fromPanel, toPanel]) tokens.addEventListener("scroll", () => run(drawAsked));
  $("copy").addEventListener("click", () => run(copy));
  for (const kind of ["png", "svg"]) $(kind).addEventListener("click", () => run(() => save(kind)));
  new ResizeObserver(() => {
    fold();
    if (view.maps) run(update);
  }).observe(host.root.querySelector("main"));
}

function chooseCell(event) {
  const head = Math.floor((event.offsetX - overview.left) / overview.cell);
  const number = Math.floor((event.offsetY - overview.top) / overview.cell);
  if (number < 0 || number >= data.layers.length || head >= data.layers[number].shape[2]) return;
  // A click on the name of a layer selects the mean of its heads.
  Object.assign(state, { layer: number, head: head < 0 ? "mean" : head });
  run(update);
}

function moveCell(event) {
  const move = ARROWS[event.key];
  if (!move) return;
  event.preventDefault();
  state.layer = clamp(state.layer + move[0], data.layers.length);
  const head = typeof state.head === "number" ? state.head : 0;
  state.head = clamp(head + move[1], layer().shape[2]);
  run(update);
}

function moveRow(event) {
  const move = ARROWS[event.key];
  if (!move) return;
  event.preventDefault();
  const [{ name, groups }] = sides();
  const at = groups.findIndex(({ positions }) => positions.includes(state[name]));
  const next = move[0] || move[1];
  choose(groups[clamp(at + next, groups.length)].positions[0], state.window, state.way);
}

// The numbers of the row and the column under the pointer.
function cellOf(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * view.down.groups.length), view.down.groups.length);
  const column = clamp(Math.floor(((event.clientX - box.left) / box.width) * view.across.groups.length), view.across.groups.length);
  return [view.down.from + row, view.across.from + column];
}

// A finger has no other way to choose a row than to touch it.
function explainCell(event) {
  const [row, column] = cellOf(event);
  if (event.pointerType !== "touch") run(() => explain(view.rows[row].positions[0], view.columns[column].positions[0]));
}

async function readMap(event) {
  const [row, column] = cellOf(event);
  const [group, other] = usual === "query" ? [view.rows[row], column] : [view.columns[column], row];
  await choose(group.positions[0], state.window);
  // While the row was read, the pointer may have moved on.
  if (state.way !== usual || !group.positions.includes(state[usual])) return;
  $("readout").textContent = `${view.rows[row].label} → ${view.columns[column].label}: ${rounded(view.weights[other])}`;
}

function setTheme(dark) {
  host.shell.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "Light theme" : "Dark theme";
  if (view.maps) run(update);
}

async function begin() {
  setTheme(host.isDark());
  fold();
  fillControls();
  Object.assign(state, data.start);
  if (isShared()) state.key = state.query;
  openDoor(redraw);
  readThumbs(await unpack(host.text("thumbs")));
  await Promise.all([...pictures, ...otherPictures, ...textPictures].filter(Boolean).map((picture) => picture.decode()));
  await redraw({});
  listen();
  await recall(report);
  host.shell.dataset.drawn = performance.now().toFixed(0);
}

run(begin);
