// A grid of patches over its image, on a canvas.
import { canvasOf, css, imageOf, sized } from "./draw.js";

export class Board {
  canvas = document.createElement("canvas");
  /** @type {number[]} */
  grid = [1, 1];

  // Draws the image, or an empty ground, the weights of the places (NaN where there are none), and a frame around a
  // place; `room` is the width and the height that it may take, `size` that of the image in pixels, if it is known.
  paint({ grid, size, picture, room, cells, scale, table, place }) {
    this.grid = grid;
    const [rows, columns] = grid;
    const [high, wide] = size ?? (picture ? [picture.naturalHeight, picture.naturalWidth] : [rows, columns]);
    const width = Math.min(room[0], (room[1] * wide) / high);
    const height = (width * high) / wide;
    const drawing = sized(this.canvas, width, height);
    drawing.fillStyle = css("--empty");
    drawing.fillRect(0, 0, width, height);
    if (picture?.naturalWidth) drawing.drawImage(picture, 0, 0, width, height);
    if (cells) {
      drawing.imageSmoothingEnabled = false;
      drawing.drawImage(canvasOf(imageOf(cells, columns, rows, scale, table)), 0, 0, width, height);
    }
    if (place < 0) return;
    const [x, y, w, h] = [(place % columns) * (width / columns), Math.floor(place / columns) * (height / rows), width / columns, height / rows];
    for (const [style, line] of [["#000", 4], ["#fff", 2]]) {
      drawing.strokeStyle = style;
      drawing.lineWidth = line;
      drawing.strokeRect(x, y, w, h);
    }
  }

  // The place under the pointer.
  placeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [rows, columns] = this.grid;
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
    return row * columns + column;
  }

  // The centre of a place on the screen.
  anchor(place) {
    const box = this.canvas.getBoundingClientRect();
    const [rows, columns] = this.grid;
    const y = box.top + (Math.floor(place / columns) + 0.5) * (box.height / rows);
    return { x: box.left + ((place % columns) + 0.5) * (box.width / columns), top: y, bottom: y, lift: 0 };
  }
}
