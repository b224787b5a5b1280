// The scale of what is shown: of weights, or of differences.
import { centredScaleOf, greatest, scaleOf } from "./scales.js";
import { data, isDifference, normOf } from "./state.js";

export const sizesOf = (values) => (isDifference() ? values.map((value) => Math.abs(value)) : values);

// `usual` is the norm of such pictures. Differences have a linear scale or one by the root.
export function scaleHere(values, counted, keys, usual, top) {
  if (!isDifference()) return scaleOf(counted, keys, greatest(values), normOf(usual), data, top);
  const norm = normOf(usual);
  return centredScaleOf(values, counted, keys, ["log", "rank"].includes(norm) ? usual : norm, data);
}
