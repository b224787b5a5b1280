// The page for other scripts, globalThis.anylocal, and its state in the address.
import { host } from "./host.js";
import { data, state } from "./state.js";
import { openSide } from "./pair.js";
import { lineOf } from "./weights.js";

/** @type {Record<string, any[]>} */
const CHOICES = { side: data.others ? ["a", "b", "difference"] : ["a"], way: ["query", "key"], norm: ["default", "linear", "sqrt", "log", "rank"], scale: ["own", "one"], padding: [true, false], special: [true, false], words: [true, false], near: [true, false] };
const TOGETHER = ["mean", "max"];

function refuse(name, value, there) {
  throw new RangeError(`anylocal: ${name} is ${JSON.stringify(value)}; there ${there}.`);
}

function numbered(name, value, count) {
  if (!Number.isInteger(value) || value < 0 || value >= count) refuse(name, value, count === 1 ? "is only 0" : `are 0 … ${count - 1}`);
  return value;
}

// Layers have the numbers of the page, from 0, or their names in the model; samples have those of the batch.
function layerOf(value) {
  const named = data.layers.findIndex(({ name }) => name === value);
  return typeof value === "string" && named >= 0 ? named : numbered("layer", value, data.layers.length);
}

function sampleOf(value) {
  const found = data.samples.indexOf(value);
  return found >= 0 ? found : refuse("sample", value, `are ${data.samples.join(", ")}`);
}

// A whole state from some of its values; refuses what the page has not.
function completed(given) {
  for (const name of Object.keys(given)) if (!(name in state)) refuse("a name", name, `are ${Object.keys(state).join(", ")}`);
  const made = { ...state, ...given };
  if ("layer" in given) made.layer = layerOf(given.layer);
  if ("sample" in given) made.sample = sampleOf(given.sample);
  const { shape, queries, keys } = data.layers[made.layer];
  const [, windows, heads] = shape;
  for (const [name, choices] of Object.entries(CHOICES)) if (!choices.includes(made[name])) refuse(name, made[name], `are ${choices.join(", ")}`);
  // What was not given may be that of a larger layer.
  const counts = { window: windows, query: data.axes[queries].length, key: data.axes[keys].length, strongest: 21 };
  for (const [name, count] of Object.entries(counts)) made[name] = name in given ? numbered(name, made[name], count) : Math.min(made[name], count - 1);
  if (typeof made.head === "number" && !("head" in given)) made.head = Math.min(made.head, heads - 1);
  if (!TOGETHER.includes(made.head)) numbered("head", made.head, heads);
  return made;
}

const told = () => ({ ...state, sample: data.samples[state.sample] });

// Reads a row (of a query) or a column (of a key); values that are not given are those that are shown.
const reads = (way) => async (given = {}) => {
  const place = { ...completed(given), way };
  const maps = await openSide(place.layer, place.side);
  await maps.missing?.(place, [place[way]]);
  return lineOf(maps, place, place[way]);
};

export function openDoor(redraw) {
  const door = Object.freeze({
    row: reads("query"),
    column: reads("key"),
    state: told,
    setState: async (changes) => redraw(pick(completed(changes), Object.keys(changes))),
  });
  if (host.attach) host.attach(door);
  else globalThis.anylocal = door;
}

const pick = (from, names) => Object.fromEntries(names.map((name) => [name, from[name]]));

// --- the address ---

let first = null;
let timer = 0;

// What a layer is called in the address: the number that the overview shows, where it is the model's, or its name.
function calledOf(number) {
  const { name, short } = data.layers[number];
  const isOnly = name && data.layers.filter((layer) => layer.name === name).length === 1;
  return /^\d+$/.test(short) ? short : isOnly ? name : String(number);
}

// The number on the page of a layer in the address.
function layerCalled(text) {
  const called = data.layers.map((_, number) => calledOf(number));
  const found = called.indexOf(text);
  const named = data.layers.findIndex(({ name }) => name === text);
  if (found < 0 && named < 0) refuse("layer", text, `${called.length === 1 ? "is only" : "are"} ${called.join(", ")}`);
  return found < 0 ? named : found;
}

const addressed = () => ({ ...told(), layer: calledOf(state.layer) });

// Browsers refuse to change the address as often as a pointer moves.
export function remember() {
  first ??= JSON.stringify(addressed());
  clearTimeout(timer);
  timer = setTimeout(write, 200);
}

function write() {
  if (host.shown) return host.shown(told());
  const usual = JSON.parse(first);
  const changed = Object.entries(addressed()).filter(([name, value]) => value !== usual[name]);
  const hash = changed.length ? `#${new URLSearchParams(changed)}` : "";
  if (hash === location.hash) return;
  try {
    history.replaceState(null, "", hash || location.pathname + location.search);
  } catch {
    // In a notebook's frame there is no address to change.
  }
}

// Shows what the address says, now and when it changes; `report` tells the reader what it asks for in vain.
export async function recall(report) {
  if (host.start) return host.start();
  const value = (text) => (/^\d+$/.test(text) ? Number(text) : ["true", "false"].includes(text) ? text === "true" : text);
  const show = async () => {
    if (!location.hash.includes("=")) return;
    try {
      const asked = [...new URLSearchParams(location.hash.slice(1))].map(([name, text]) => [name, name === "layer" ? layerCalled(text) : value(text)]);
      await globalThis.anylocal.setState(Object.fromEntries(asked));
    } catch (error) {
      report(error);
    }
  };
  await show();
  addEventListener("hashchange", show);
}
