// The Python call that draws the same picture.
import { $, data, isDifference, keys, layer, normOf, ofSide, queries, state, view } from "./state.js";
import { labelOf, ofText, viewsOf } from "./positions.js";

// The Python call that draws the same picture.
export function call() {
  const map = `${ofSide() === layer() ? "maps" : "other"}[${ofSide().ref}]`;
  const windows = layer().shape[1];
  const image = data.samples[state.sample];
  const matrix = image * windows + state.window;
  const together = { mean: ".mean(0)", max: ".amax(0)" }[state.head];
  if (isDifference()) {
    const line = state.way === "key" ? `[:, [${state.key}]]` : `[[${state.query}]]`;
    const own = (name, { ref }) => `${name}[${ref}][${matrix}${together ? `]${together}` : `, ${state.head}]`}${line}`;
    return `plot.difference(${own("maps", layer())}, ${own("other", data.others[state.layer])})`;
  }
  if (state.way === "key") return `plot.heatmap(${map}[${matrix}${together ? `]${together}` : `, ${state.head}]`}[:, [${state.key}]], norm="${normOf("sqrt")}")`;
  const norm = ["default", "linear"].includes(state.norm) ? [] : [`norm="${state.norm}"`];
  if (state.head === "max") return `plot.heatmap(${map}[${matrix}].amax(0), norm="${normOf("sqrt")}")`;
  const rest = [...(state.head === "mean" ? [] : [`head=${state.head}`]), ...norm];
  const options = [...(data.batch > 1 ? [`sample=${image}`] : []), ...rest];
  if (keys().kind === "patches" && data.images.length && queries().kind === "patches") {
    const label = labelOf(queries(), state.query);
    const query = label.startsWith("(") ? label : JSON.stringify(label);
    return `plot.query(${[map, "images", `query=${query}`, ...options].join(", ")})`;
  }
  // Of several images, the first.
  const drawn = viewsOf(keys()).find(({ picture }) => picture !== null);
  if (drawn && queries().kind === "tokens") {
    const positions = view.rows.find(({ positions: own }) => own.includes(state.query))?.positions ?? [state.query];
    return `plot.over_image(${[map, "image", `query=[${positions.join(", ")}]`, ...(drawn.source ? [`source=${drawn.source}`] : []), ...options].join(", ")})`;
  }
  if (keys().kind === "tokens" && queries().kind === "tokens") {
    const words = state.words ? ofText(queries(), "words") : null;
    const query = words ? words.findIndex((positions) => positions.includes(state.query)) : state.query;
    return `plot.tokens(${[map, `queries=[${query}]`, ...options, ...(words ? ["words=True"] : [])].join(", ")})`;
  }
  const sample = data.batch * windows > 1 ? [`sample=${matrix}`] : [];
  return `plot.heatmap(${[map, `queries=[${state.query}]`, ...sample, ...rest].join(", ")})`;
}
