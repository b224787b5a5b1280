// The weights of a live capture, which Python reads when they are asked for. Nothing here needs a document.

// Bytes of weights that are kept, the most recently read ones.
const KEPT = 256 * 2 ** 20;
// Rows in one answer: between two answers, Python reads what the reader asks for next.
const TOGETHER = 32;
const PATIENCE = 20_000;

// Questions to Python, by number, and its answers.
export function askerOf(model) {
  const open = new Map();
  let count = 0;
  const answer = ({ id, error, ...found }, buffers) => {
    const asked = open.get(id);
    open.delete(id);
    if (error === undefined) asked?.resolve({ ...found, buffers });
    else asked?.reject(new Error(error));
  };
  model.on("msg:custom", answer);
  const ask = (what, given) => {
    const id = `${(count += 1)} ${Math.random()}`;
    // A notebook that is opened again has no Python behind it.
    const timer = setTimeout(() => answer({ id, error: "Python does not answer: is the kernel of this notebook running, and the cell run?" }), PATIENCE);
    return new Promise((resolve, reject) => {
      open.set(id, { resolve, reject });
      model.send({ id, ask: what, ...given });
    }).finally(() => clearTimeout(timer));
  };
  return { ask, close: () => model.off("msg:custom", answer) };
}

// One layer, in place of what rows.js makes of the page's bytes. A line is a row or a column, of one head or several.
export function liveOf(ask, layer, kept) {
  const keyOf = ({ sample, window, head, way }, position) => [layer, sample, window, head, way, position].join();
  const placeOf = ({ sample, window, head, way }) => ({ layer, sample, window, head, way });
  const read = async (place, positions) => {
    const { buffers } = await ask("lines", { ...placeOf(place), positions });
    const bytes = buffers[0];
    const whole = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    const length = whole.length / positions.length;
    positions.forEach((position, at) => kept.add(keyOf(place, position), whole.subarray(at * length, (at + 1) * length)));
  };
  const absent = (place, positions) => positions.filter((position) => !kept.get(keyOf(place, position)));
  return {
    line: (place, position) => kept.get(keyOf(place, position)),
    // A promise of lines that are not here yet, or nothing.
    missing(place, positions) {
      const wanted = absent(place, positions);
      return wanted.length ? read(place, wanted) : undefined;
    },
    // Reads many lines in parts, and returns whether all of them are there: meanwhile something else may be wanted.
    async prepare(place, positions, isCurrent) {
      const wanted = absent(place, positions);
      for (let at = 0; at < wanted.length; at += TOGETHER) {
        await read(place, wanted.slice(at, at + TOGETHER));
        if (!isCurrent()) return false;
      }
      return true;
    },
    async making(place, query, key) {
      const { making } = await ask("making", { ...placeOf(place), query, key });
      return making && { ...making, added: making.added ?? -Infinity };
    },
  };
}

// Lines by their key; those read last stay.
export function storeOf(most = KEPT) {
  const lines = new Map();
  let held = 0;
  return {
    get: (key) => lines.get(key),
    add(key, line) {
      held += line.byteLength - (lines.get(key)?.byteLength ?? 0);
      lines.delete(key);
      lines.set(key, line);
      for (const [first, { byteLength }] of lines) {
        if (held <= most || first === key) break;
        lines.delete(first);
        held -= byteLength;
      }
    },
  };
}
