// The page as a widget of a notebook, by anywidget: in a shadow tree, so that several share neither names nor styles.
import { askerOf, liveOf, storeOf } from "./live.js";

// JupyterLab and Notebook, VS Code, marimo and others.
function isDark() {
  const { classList, dataset } = document.body;
  if (dataset.jpThemeLight !== undefined) return dataset.jpThemeLight === "false";
  if (classList.contains("vscode-light") || classList.contains("light")) return false;
  return classList.contains("vscode-dark") || classList.contains("dark") || matchMedia("(prefers-color-scheme: dark)").matches;
}

const isSame = (one, other) => JSON.stringify(Object.entries(one).sort()) === JSON.stringify(Object.entries(other).sort());

export function render(page, style, { model, el }) {
  // Or arrow keys would also move among the notebook's cells.
  el.dataset.lmSuppressShortcuts = "true";
  el.addEventListener("keydown", (event) => event.stopPropagation());
  const root = el.shadowRoot ?? el.attachShadow({ mode: "open" });
  const shell = document.createElement("div");
  shell.className = "shell";
  shell.innerHTML = model.get("_body");
  const sheet = document.createElement("style");
  sheet.textContent = style;
  root.replaceChildren(sheet, shell);
  const { ask, close } = askerOf(model);
  // Layers are named as the maps in Python are, and numbered in the page.
  const { refs } = JSON.parse(model.get("_data"));
  const kept = storeOf();
  const told = (state) => Object.fromEntries(Object.keys(model.get("selection")).map((name) => [name, name === "layer" ? refs[state.layer] : state[name]]));
  let door = null;
  let isDrawn = false;
  const follow = async () => {
    const wanted = model.get("selection");
    if (door && !isSame(wanted, told(door.state()))) await door.setState({ ...wanted, layer: refs.indexOf(wanted.layer) });
  };
  page({
    root,
    shell,
    isDark,
    text: (id) => model.get(`_${id}`),
    open: async (number) => liveOf(ask, number, kept),
    attach: (made) => { door = made; },
    start: async () => {
      await follow();
      isDrawn = true;
    },
    shown: (state) => {
      if (!isDrawn || isSame(model.get("selection"), told(state))) return;
      model.set("selection", told(state));
      model.save_changes();
    },
  });
  model.on("change:selection", follow);
  return () => {
    model.off("change:selection", follow);
    close();
  };
}
