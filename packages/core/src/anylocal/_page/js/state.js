// What the page shows, and its data.
import { bytesOf } from "./bytes.js";
import { host } from "./host.js";

/** @type {(id: string) => any} */
export const $ = (id) => host.root.getElementById(id);
export const data = JSON.parse(host.text("data"));

// Red, green, blue and opacity of each of 256 steps.
const TABLES = Object.fromEntries(Object.entries(data.colours).filter(([, text]) => typeof text === "string").map(([name, text]) => [name, bytesOf(text)]));
// What is drawn; `side` is which of two captures, or their difference; `way` is whose weights: those of a query, or those that a key gets.
/** @type {{ [name: string]: any, layer: number, head: number | string, sample: number, window: number, query: number, key: number }} */
export const state = { layer: 0, head: 0, sample: 0, window: 0, way: "query", query: 0, key: 0, strongest: 5, norm: "default", scale: "own", padding: true, special: false, words: false, near: false, side: "a" };

export const layer = () => data.layers[state.layer];
export const queries = () => data.axes[layer().queries];
export const keys = () => data.axes[layer().keys];
export const isShared = () => layer().queries === layer().keys;

export const normOf = (usual) => (state.norm === "default" ? usual : state.norm);

// The layers of the page, and after them those of the other capture that it compares.
export const described = [...data.layers, ...(data.others ?? [])];
export const SIDES = { a: "a", b: "b", difference: "a − b" };
export const isDifference = (side = state.side) => side === "difference";
export const ofSide = () => described[state.layer + (state.side === "b" ? data.layers.length : 0)];
export const sharedTop = () => (state.scale === "one" && !isDifference() ? ofSide().tops[state.sample] : null);
export const tableOf = (over, side = state.side) => TABLES[isDifference(side) ? (over ? "differenceImage" : "difference") : over ? "image" : "map"];

// The layer that is shown, its queries and keys as they are drawn (see groupsOf), those in the map (see near.js), and the weights of the query or key asked for.
/** @type {{ maps: any, rows: any[], columns: any[], down: any, across: any, weights: any, pair: any }} */
export const view = { maps: null, rows: [], columns: [], down: { from: 0, groups: [] }, across: { from: 0, groups: [] }, weights: null, pair: null };
