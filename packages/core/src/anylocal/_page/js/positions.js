// What positions are called, where they lie, and which are drawn together.
import { layer, state } from "./state.js";

const textOf = (axis) => (axis.texts ? axis.texts[state.sample % axis.texts.length] : null);
export const ofText = (axis, name) => axis[name]?.[state.sample % axis[name].length];

// The images and videos of a text, as grids of patches.
export const viewsOf = (axis) => ofText(axis, "media") ?? [];

const patches = new WeakMap();

// The patch of an image that a token stands for: its view, and its place there; null for any other position.
export function patchOf(axis, position) {
  const views = viewsOf(axis);
  if (!views.length) return null;
  if (!patches.has(views)) patches.set(views, new Map(views.flatMap((view) => view.positions.map((at, place) => [at, { view, place }]))));
  return patches.get(views).get(position) ?? null;
}

const rowAndColumn = ({ view, place }) => `(${Math.floor(place / view.grid[1])}, ${place % view.grid[1]})`;

export function placeOf(axis, position, window = state.window) {
  const offset = position - axis.prefix.length;
  if (offset < 0) return -1;
  if (!axis.places) return offset;
  const rows = axis.places;
  return rows[(state.sample * layer().shape[1] + window) % rows.length][offset];
}

export function labelOf(axis, position) {
  const patch = patchOf(axis, position);
  if (patch) return `${patch.view.name} ${rowAndColumn(patch)}`;
  if (axis.kind === "tokens") return textOf(axis)[position];
  if (axis.kind === "names") return axis.names[position];
  if (axis.kind !== "patches") return String(position);
  if (position < axis.prefix.length) return axis.prefix[position];
  const place = placeOf(axis, position);
  return place < 0 ? "padding" : `(${Math.floor(place / axis.grid[1])}, ${place % axis.grid[1]})`;
}

// A position in a sentence, where a word of a text would be lost, and numbers say nothing.
export function phraseOf(axis, position, label = labelOf(axis, position)) {
  const patch = patchOf(axis, position);
  if (patch) return `patch ${rowAndColumn(patch)} of ${patch.view.name}`;
  if (axis.kind === "tokens" || axis.kind === "names") return `“${label}”`;
  if (axis.kind !== "patches") return `position ${label}`;
  return placeOf(axis, position) < 0 ? label : `patch ${label}`;
}

export const isPadding = (axis, position) => Boolean(axis.kind === "patches" ? position >= axis.prefix.length && placeOf(axis, position) < 0 : ofText(axis, "padding")?.[position]);
// A tokenizer's special token that stands for a patch is none here.
export const isSpecial = (axis, position) => !isPadding(axis, position) && !patchOf(axis, position) && Boolean(axis.kind === "patches" ? position < axis.prefix.length : ofText(axis, "special")?.[position]);
export const isHidden = (axis, position) => (state.padding && isPadding(axis, position)) || (state.special && isSpecial(axis, position));

// Positions drawn together, as {label, positions}: words merged, special tokens and padding left out.
export function groupsOf(axis) {
  const words = state.words ? ofText(axis, "words") : null;
  const alone = (position) => ({ label: labelOf(axis, position), positions: [position] });
  const all = words
    ? words.flatMap((positions, at) => (patchOf(axis, positions[0]) ? positions.map(alone) : { label: ofText(axis, "spellings")[at], positions }))
    : Array.from({ length: axis.length }, (_, position) => alone(position));
  const shown = all.filter(({ positions }) => !positions.every((position) => isHidden(axis, position)));
  return shown.length ? shown : all;
}

// Positions that the scale is for: patches and words. If there are no others, special tokens and padding count.
export function countedOf(axis, groups) {
  const counted = [...groups.keys()].filter((at) => groups[at].positions.some((position) => !isSpecial(axis, position) && !isPadding(axis, position)));
  return counted.length ? counted : [...groups.keys()];
}

// The same by what they are drawn on, the text and its images; all of them where there are no images.
export function countedParts(axis, groups) {
  const counted = countedOf(axis, groups);
  const isPatch = (at) => Boolean(patchOf(axis, groups[at].positions[0]));
  const words = counted.filter((at) => !isPatch(at));
  return { words: words.length ? words : counted, patches: counted.filter(isPatch) };
}
