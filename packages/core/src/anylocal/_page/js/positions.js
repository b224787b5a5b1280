// What positions are called, where they lie, and which are drawn together.
import { layer, state } from "./state.js";

const textOf = (axis) => (axis.texts ? axis.texts[state.sample % axis.texts.length] : null);
export const ofText = (axis, name) => axis[name]?.[state.sample % axis[name].length];

export function placeOf(axis, position, window = state.window) {
  const offset = position - axis.prefix.length;
  if (offset < 0) return -1;
  if (!axis.places) return offset;
  const rows = axis.places;
  return rows[(state.sample * layer().shape[1] + window) % rows.length][offset];
}

export function labelOf(axis, position) {
  if (axis.kind === "tokens") return textOf(axis)[position];
  if (axis.kind === "names") return axis.names[position];
  if (axis.kind !== "patches") return String(position);
  if (position < axis.prefix.length) return axis.prefix[position];
  const place = placeOf(axis, position);
  return place < 0 ? "padding" : `(${Math.floor(place / axis.grid[1])}, ${place % axis.grid[1]})`;
}

// A position in a sentence, where a word of a text would be lost, and numbers say nothing.
export function phraseOf(axis, position, label = labelOf(axis, position)) {
  if (axis.kind === "tokens" || axis.kind === "names") return `“${label}”`;
  if (axis.kind !== "patches") return `position ${label}`;
  return placeOf(axis, position) < 0 ? label : `patch ${label}`;
}

export const isPadding = (axis, position) => Boolean(axis.kind === "patches" ? position >= axis.prefix.length && placeOf(axis, position) < 0 : ofText(axis, "padding")?.[position]);
export const isSpecial = (axis, position) => !isPadding(axis, position) && Boolean(axis.kind === "patches" ? position < axis.prefix.length : ofText(axis, "special")?.[position]);
export const isHidden = (axis, position) => (state.padding && isPadding(axis, position)) || (state.special && isSpecial(axis, position));

// Positions drawn together, as {label, positions}: words merged, special tokens and padding left out.
export function groupsOf(axis) {
  const words = state.words ? ofText(axis, "words") : null;
  const all = words
    ? words.map((positions, at) => ({ label: ofText(axis, "spellings")[at], positions }))
    : Array.from({ length: axis.length }, (_, position) => ({ label: labelOf(axis, position), positions: [position] }));
  const shown = all.filter(({ positions }) => !positions.every((position) => isHidden(axis, position)));
  return shown.length ? shown : all;
}

// Positions that the scale is for: patches and words. If there are no others, special tokens and padding count.
export function countedOf(axis, groups) {
  const counted = [...groups.keys()].filter((at) => groups[at].positions.some((position) => !isSpecial(axis, position) && !isPadding(axis, position)));
  return counted.length ? counted : [...groups.keys()];
}
