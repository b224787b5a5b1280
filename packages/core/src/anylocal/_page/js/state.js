// What the page shows, and its data.
import { bytesOf } from "./bytes.js";
import { host } from "./host.js";

/** @type {(id: string) => any} */
export const $ = (id) => host.root.getElementById(id);
export const data = JSON.parse(host.text("data"));

// Red, green, blue and opacity of each of 256 steps.
export const TABLES = { map: bytesOf(data.colours.map), image: bytesOf(data.colours.image) };
// What is drawn; `way` is whose weights: those of a query, or those that a key gets.
/** @type {{ [name: string]: any, layer: number, head: number | string, sample: number, window: number, query: number, key: number }} */
export const state = { layer: 0, head: 0, sample: 0, window: 0, way: "query", query: 0, key: 0, strongest: 5, norm: "default", scale: "own", padding: true, special: false, words: false };

export const layer = () => data.layers[state.layer];
export const queries = () => data.axes[layer().queries];
export const keys = () => data.axes[layer().keys];
export const isShared = () => layer().queries === layer().keys;

export const normOf = (usual) => (state.norm === "default" ? usual : state.norm);
export const sharedTop = () => (state.scale === "one" ? layer().tops[state.sample] : null);

// The layer that is shown, its queries and keys as they are drawn (see groupsOf), and the weights of the query or key asked for.
/** @type {{ maps: any, rows: any[], columns: any[], weights: any }} */
export const view = { maps: null, rows: [], columns: [], weights: null };
