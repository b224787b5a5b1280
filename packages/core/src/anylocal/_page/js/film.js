// The samples as a filmstrip, and the steps of a generation as a slider.
import { $, data, layer, queries, state } from "./state.js";
import { labelOf } from "./positions.js";

// One image for each sample, as radio buttons: arrow keys move among them.
export function fillFilm(choose) {
  $("film").hidden = data.images.length < 2;
  if ($("film").hidden) return;
  $("film").append(...data.samples.map((sample, at) => {
    const [label, button, image] = ["label", "input", "img"].map((tag) => document.createElement(tag));
    Object.assign(button, { type: "radio", name: "film", value: at });
    button.addEventListener("input", () => choose(at));
    Object.assign(image, { src: data.images[at], alt: `Sample ${sample}` });
    label.append(button, image);
    return label;
  }));
}

export function fitFilm() {
  for (const button of $("film").querySelectorAll("input")) button.checked = Number(button.value) === state.sample;
}

// The last position that each step reads is the one whose output is the step's new token.
export function fillSteps(choose) {
  $("step").addEventListener("input", () => choose(layer().steps[Number($("step").value)]));
}

export function tellStep() {
  const { steps } = layer();
  $("step-label").hidden = !steps;
  if (!steps) return;
  const at = Math.max(0, steps.findIndex((last) => last >= state.query));
  $("step").max = String(steps.length - 1);
  $("step").value = String(at);
  const written = steps[at] + 1 < queries().length ? `writes “${labelOf(queries(), steps[at] + 1)}”` : "writes the last token";
  $("step-text").textContent = `${at + 1} of ${steps.length}: reads “${labelOf(queries(), steps[at])}”, ${written}`;
  $("step").setAttribute("aria-valuetext", $("step-text").textContent);
}
