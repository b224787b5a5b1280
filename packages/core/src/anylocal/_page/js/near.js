// The part of a long map whose labels can be read: the positions near the query.
import { NEAR, startOf } from "./scales.js";
import { isShared, state, view } from "./state.js";

const placeOfGroup = (groups, position) => Math.max(0, groups.findIndex(({ positions }) => positions.includes(position)));

function part(groups, at, before) {
  const from = state.near ? startOf(groups.length, at, before?.from ?? 0) : 0;
  return { from, groups: state.near ? groups.slice(from, from + NEAR) : groups };
}

// Of the side that is not asked, the part around the strongest weight, unless both sides are the same.
export function placeParts() {
  const strongest = (groups) => (view.weights?.length === groups.length ? view.weights.indexOf(view.weights.reduce((most, weight) => Math.max(most, weight), -Infinity)) : 0);
  const at = (name, groups) => (isShared() || state.way === name ? placeOfGroup(groups, state[name]) : strongest(groups));
  view.down = part(view.rows, at("query", view.rows), view.down);
  view.across = part(view.columns, at("key", view.columns), view.across);
}

// Whether what is asked for is beyond what the map shows.
export function isBeyond() {
  const [groups, { from }] = state.way === "query" ? [view.rows, view.down] : [view.columns, view.across];
  const at = placeOfGroup(groups, state[state.way]);
  return state.near && (at < from || at >= from + NEAR);
}
