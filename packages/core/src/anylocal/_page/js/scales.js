// Where scales end and how they run: those of anylocal.plot. Nothing here needs a document.

export const greatest = (values) => values.reduce((most, value) => (value > most ? value : most), 0);
export const rounded = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.001 ? value.toFixed(3) : value.toExponential(1)).replace(/^-/, "−");

function quantile(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = sorted[Math.floor(at)];
  return low + (at % 1) * (sorted[Math.ceil(at)] - low);
}

// Where the scale of weights at a number of keys ends: see anylocal._drawing.scale.top_of.
export function topOf(sorted, keys, rules) {
  if (!sorted.length) return 1;
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  const few = keys < rules.few.keys && sorted.length < rules.few.values;
  const top = few ? sorted[sorted.length - 1] : Math.max(Math.min(Math.max(quantile(sorted, 0.995), rules.even * quantile(sorted, 0.5)), 2 * quantile(sorted, 0.98)), mean);
  return top > 0 ? top : 1;
}

// The share of smaller weights: see anylocal._drawing.norms.Rank.
export function rankOf(sorted, most) {
  const count = Math.min(sorted.length, most);
  const known = Float32Array.from({ length: count }, (_, at) => sorted[Math.floor((at * (sorted.length - 1)) / Math.max(1, count - 1))]);
  const first = [...known.keys()].filter((at) => at === 0 || known[at] > known[at - 1]);
  const [knots, ranks] = first.length > 1 ? [first.map((at) => known[at]), first.map((at) => at / first[first.length - 1])] : [[0, known[0] || 1], [0, 1]];
  return (value) => {
    let [low, high] = [0, knots.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (knots[middle] <= value) low = middle;
      else high = middle;
    }
    return ranks[low] + ((ranks[high] - ranks[low]) * (value - knots[low])) / (knots[high] - knots[low]);
  };
}

// The scale for the counted weights of a picture whose greatest is `most`; `top` if it is shared with others. The rules
// are those of the page's data.
export function scaleOf(counted, keys, most, norm, rules, top = null) {
  const ranked = norm === "rank";
  const sorted = top === null || ranked ? Float32Array.from(counted).sort() : null;
  const end = ranked ? greatest(sorted) : top ?? topOf(sorted, keys, rules);
  const level = {
    linear: (value) => value / end,
    sqrt: (value) => Math.sqrt(value / end),
    log: (value) => 1 + Math.log10(Math.max(value / end, 1e-12)) / rules.decades,
    rank: ranked ? rankOf(sorted, rules.knots) : null,
  }[norm];
  return {
    top: end,
    least: norm === "log" ? `≤ ${rounded(end / 10 ** rules.decades)}` : "0",
    most: most > 1.0001 * end ? `≥ ${rounded(end)} (maximum ${rounded(most)})` : rounded(end),
    isClipped: most > 1.0001 * end,
    isSigned: false,
    // Index of a weight's colour, of 256.
    step: (value) => Math.round(255 * Math.min(1, Math.max(0, level(value)))),
  };
}

// The scale of differences, with 0 in its middle: see anylocal._drawing.scale.centred_scale.
export function centredScaleOf(values, counted, keys, norm, rules) {
  const end = topOf(Float32Array.from(counted, (value) => Math.abs(value)).sort(), keys, rules);
  const least = -greatest(values.map((value) => -value));
  const told = (most, sign) => (sign * most > 1.0001 * end ? `${sign > 0 ? "≥" : "≤"} ${rounded(sign * end)} (${sign > 0 ? "max" : "min"} ${rounded(most)})` : rounded(sign * end));
  const level = (share) => (norm === "sqrt" ? Math.sqrt(share) : share);
  return {
    top: end,
    least: told(least, -1),
    most: told(greatest(values), 1),
    isClipped: false,
    isSigned: true,
    step: (value) => Math.round(127.5 + 127.5 * Math.sign(value) * Math.min(1, level(Math.abs(value) / end))),
  };
}

export const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));

// Positions of the part of a long map whose labels can be read: of more, they would be smaller than 8 pixels on a phone.
export const NEAR = 32;

// Where that part starts: where it did, if what it is about is still in it, else with that in its middle.
export function startOf(count, at, before) {
  const isInside = at >= before && at < before + NEAR && before + NEAR <= count;
  return isInside ? before : Math.max(0, Math.min(count - NEAR, at - NEAR / 2));
}
