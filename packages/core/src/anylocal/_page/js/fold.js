// Settings that are not always needed are folded where there is little room.
import { host } from "./host.js";
import { $ } from "./state.js";

// The width in pixels below which they would fill most of the first screen.
const NARROW = 640;
let isNarrow = null;

export function fold() {
  const narrow = host.root.querySelector("main").clientWidth < NARROW;
  // What the reader unfolded stays so.
  if (narrow === isNarrow) return;
  isNarrow = narrow;
  $("more").open = !narrow;
  $("more-name").hidden = !narrow;
}
