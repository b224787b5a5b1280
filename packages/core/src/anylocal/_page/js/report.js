// What went wrong, told to the reader.
import { $ } from "./state.js";

export function report(error) {
  $("problem").hidden = false;
  $("problem").textContent = String(error?.message ?? error);
}

export const run = (what) => Promise.resolve().then(what).catch(report);
