// Finding a position by its label, in long texts above all.
import { $, state } from "./state.js";
import { sides } from "./query.js";

// Goes to the next position whose label holds the text, on from the present one, or stays there if it does, by 0.
export function find(step, choose) {
  const wanted = $("find").value.toLowerCase();
  const [{ name, groups, panel }] = sides();
  const found = [...groups.keys()].filter((at) => wanted && groups[at].label.toLowerCase().includes(wanted));
  const present = groups.findIndex(({ positions }) => positions.includes(state[name]));
  const next = step < 0 ? found.findLastIndex((at) => at < present) : found.findIndex((at) => (step ? at > present : at >= present));
  // Past the end, from the other end again.
  const chosen = next >= 0 ? next : step < 0 ? found.length - 1 : 0;
  $("found").textContent = !wanted ? "" : found.length ? `${chosen + 1} of ${found.length}` : "not found";
  if (!found.length) return;
  const [position] = groups[found[chosen]].positions;
  choose(position, state.window);
  panel.spanOf(position)?.scrollIntoView({ block: "nearest" });
}
