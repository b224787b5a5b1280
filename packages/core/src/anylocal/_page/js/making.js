// How one weight comes about: query and key by channel, the scale, the mask, and the row's softmax.
import { rounded } from "./scales.js";
import { $, SIDES, data, isDifference, keys, layer, ofSide, queries, state, view } from "./state.js";
import { labelOf } from "./positions.js";
import { run } from "./report.js";
import { blockOf, headsOf, lineOf } from "./weights.js";

const SHOWN = 8;
const number = (value) => String(Number(value.toPrecision(4)));
const strongest = (values) => [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, SHOWN);

// Opens the dialog for a query and a key. Of several heads together, all are listed, and it is of the one in which the
// weight is greatest, or of a chosen one.
export async function explain(query, key, chosen = null) {
  await view.maps.missing?.({ ...state, way: "query" }, [query]);
  for (const head of headsOf()) await view.maps.missing?.({ ...state, way: "query", head }, [query]);
  const rows = headsOf().map((head) => ({ head, row: lineOf(view.maps, { ...state, way: "query", head }, query) }));
  const greatest = rows.reduce((best, each) => (Math.abs(each.row[key]) > Math.abs(best.row[key]) ? each : best));
  const { head, row } = rows.find((each) => each.head === chosen) ?? greatest;
  const whole = lineOf(view.maps, { ...state, way: "query" }, query)[key];
  const together = rows.length > 1 ? `, ${state.head} of ${rows.length} heads` : "";
  $("making-title").textContent = `${labelOf(queries(), query)} → ${labelOf(keys(), key)}: ${rounded(whole)}${together}${data.others ? `, ${SIDES[state.side]}` : ""}`;
  const one = isDifference() ? "difference" : "weight";
  $("making-place").textContent = `${ofSide().name || `layer ${ofSide().ref}`}, head ${head}${rows.length > 1 && head === greatest.head ? `: of the ${rows.length} heads, the one with the greatest ${one} here` : ""}`;
  $("making-heads").hidden = !together;
  if (chosen === null) $("making-head").replaceChildren(...rows.map((each) => new Option(`${each.head}: ${rounded(each.row[key])}`, String(each.head))));
  $("making-head").value = String(head);
  $("making-head").oninput = () => run(() => explain(query, key, Number($("making-head").value)));
  const made = view.maps.making ? await view.maps.making({ ...state, head }, query, key) : view.maps.vectors?.(blockOf(state, head), query, key);
  $("making-line").textContent = made ? line(made, row[key]) : view.maps.told?.({ ...state, way: "query", head }, query, key) ?? "This page holds the weights of this layer, but not its query and key.";
  $("making-channels").hidden = !made;
  if (made) {
    const order = strongest(made.products);
    const channels = order.map((at) => [`channel ${at}`, made.products[at]]);
    const rest = made.products.reduce((sum, value) => sum + value, 0) - channels.reduce((sum, [, value]) => sum + value, 0);
    if (made.products.length > order.length) channels.push([`${made.products.length - order.length} others`, rest]);
    fill($("making-channels"), "q · k by channel", channels);
  }
  fill($("making-terms"), `Greatest ${one}s of the query`, strongest(row).map((at) => [labelOf(keys(), at), row[at]]));
  const matrix = data.samples[state.sample] * layer().shape[1] + state.window;
  $("making-call").textContent = `${ofSide() === layer() ? "maps" : "other"}[${ofSide().ref}].explain(${query}, ${key}, ${head}${data.batch * layer().shape[1] > 1 ? `, sample=${matrix}` : ""})`;
  if (!$("making").open) $("making").showModal();
}

function line({ products, scale, added }, weight) {
  const product = products.reduce((sum, value) => sum + value, 0);
  if (added === -Infinity || weight === 0) return `score = q · k × scale = ${number(product)} × ${number(scale)} = ${number(product * scale)}; the mask hides this key from the query: 0`;
  const score = product * scale + added;
  const sum = added === 0 ? "" : ` ${added < 0 ? "−" : "+"} ${number(Math.abs(added))}`;
  return `score = q · k × scale${sum && " + mask"} = ${number(product)} × ${number(scale)}${sum} = ${number(score)}; softmax: exp(score − logsumexp of the row) = exp(${number(score)} − ${number(score - Math.log(weight))}) = ${rounded(weight)}`;
}

// A table of names, values and bars; what names hold stays text.
function fill(table, title, values) {
  const most = Math.max(...values.map(([, value]) => Math.abs(value))) || 1;
  const caption = document.createElement("caption");
  caption.textContent = title;
  table.replaceChildren(caption, ...values.map(([name, value]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    const [cell, bar] = [0, 1].map(() => document.createElement("td"));
    head.scope = "row";
    head.textContent = name;
    cell.textContent = Math.abs(value) < 1 ? rounded(Math.abs(value)).replace(/^/, value < 0 ? "−" : "") : number(value);
    const span = document.createElement("span");
    // Differences are red where the first has more, as in the map.
    span.className = value < 0 !== isDifference() ? "bar less" : "bar";
    span.style.width = `${(100 * Math.abs(value)) / most}%`;
    bar.append(span);
    row.append(head, cell, bar);
    return row;
  }));
}
