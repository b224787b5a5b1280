// Text of the page -> bytes and weights. Nothing here needs a document.

// A weight is (byte / 255)² times the greatest of its matrix.
export const SQUARES = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255) ** 2);

export function bytesOf(text) {
  // Of browsers since 2025.
  const { fromBase64 } = /** @type {any} */ (Uint8Array);
  if (fromBase64) return fromBase64.call(Uint8Array, text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

export async function unpack(text) {
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old for this page: it lacks DecompressionStream (available since 2023).");
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// The scales of all matrices come first, then the matrices, one byte a weight.
export const split = (buffer, count) => ({ scales: new Float32Array(buffer, 0, count), bytes: new Uint8Array(buffer, 4 * count) });

// Rows stored as differences from the row above are summed up again; bytes wrap modulo 256.
export function summed(maps, [, , , rows, columns]) {
  const { bytes } = maps;
  for (let at = 0; at < bytes.length; at++) if (at % (rows * columns) >= columns) bytes[at] += bytes[at - columns];
  return maps;
}
