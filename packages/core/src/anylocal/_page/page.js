// The interactive page of attention maps. Its data are in the page: JSON in #data, and compressed bytes for each layer.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  // Decoded layers are cached up to this many bytes, the most recently used ones.
  const KEPT = 256 * 2 ** 20;
  // A weight is (byte / 255)² times the greatest of its matrix.
  const SQUARES = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255) ** 2);
  // Red, green, blue and opacity of each of 256 steps.
  const TABLES = { map: bytesOf(data.colours.map), image: bytesOf(data.colours.image) };
  const state = { layer: 0, head: 0, sample: 0, window: 0, query: 0, strongest: 5, norm: "default", scale: "own", padding: true, special: false, words: false };

  // --- bytes ---------------------------------------------------------------------------------------------------

  function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
    return bytes;
  }

  async function unpack(id) {
    if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old for this page: it lacks DecompressionStream (available since 2023).");
    const stream = new Blob([bytesOf($(id).textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // The scales of all matrices come first, then the matrices, one byte a weight.
  const split = (buffer, count) => ({ scales: new Float32Array(buffer, 0, count), bytes: new Uint8Array(buffer, 4 * count) });

  // Rows stored as differences from the row above are summed up again; bytes wrap modulo 256.
  function summed(maps, [, , , rows, columns]) {
    const { bytes } = maps;
    for (let at = 0; at < bytes.length; at++) if (at % (rows * columns) >= columns) bytes[at] += bytes[at - columns];
    return maps;
  }

  const opened = new Map();
  function open(number) {
    const found = opened.get(number);
    opened.delete(number);
    const [samples, windows, heads, rows, columns] = data.layers[number].shape;
    const promise = found?.promise ?? unpack(`layer-${number}`).then((buffer) => {
      const maps = split(buffer, samples * windows * heads);
      return data.layers[number].differences ? summed(maps, data.layers[number].shape) : maps;
    });
    opened.set(number, { promise, size: samples * windows * heads * rows * columns });
    let held = 0;
    for (const [key, { size }] of [...opened].reverse()) {
      held += size;
      if (held > KEPT && key !== number) opened.delete(key);
    }
    return promise;
  }

  // --- positions -----------------------------------------------------------------------------------------------

  const layer = () => data.layers[state.layer];
  const queries = () => data.axes[layer().queries];
  const keys = () => data.axes[layer().keys];
  const isShared = () => layer().queries === layer().keys;
  const textOf = (axis) => (axis.texts ? axis.texts[state.sample % axis.texts.length] : null);
  const ofText = (axis, name) => axis[name]?.[state.sample % axis[name].length];

  function placeOf(axis, position, window = state.window) {
    const offset = position - axis.prefix.length;
    if (offset < 0) return -1;
    if (!axis.places) return offset;
    const rows = axis.places;
    return rows[(state.sample * layer().shape[1] + window) % rows.length][offset];
  }

  function labelOf(axis, position) {
    if (axis.kind === "tokens") return textOf(axis)[position];
    if (axis.kind === "names") return axis.names[position];
    if (axis.kind !== "patches") return String(position);
    if (position < axis.prefix.length) return axis.prefix[position];
    const place = placeOf(axis, position);
    return place < 0 ? "padding" : `(${Math.floor(place / axis.grid[1])}, ${place % axis.grid[1]})`;
  }

  const isPadding = (axis, position) => Boolean(axis.kind === "patches" ? position >= axis.prefix.length && placeOf(axis, position) < 0 : ofText(axis, "padding")?.[position]);
  const isSpecial = (axis, position) => !isPadding(axis, position) && Boolean(axis.kind === "patches" ? position < axis.prefix.length : ofText(axis, "special")?.[position]);
  const isHidden = (axis, position) => (state.padding && isPadding(axis, position)) || (state.special && isSpecial(axis, position));

  // Positions drawn together, as {label, positions}: words merged, special tokens and padding left out.
  function groupsOf(axis) {
    const words = state.words ? ofText(axis, "words") : null;
    const all = words
      ? words.map((positions, at) => ({ label: ofText(axis, "spellings")[at], positions }))
      : Array.from({ length: axis.length }, (_, position) => ({ label: labelOf(axis, position), positions: [position] }));
    const shown = all.filter(({ positions }) => !positions.every((position) => isHidden(axis, position)));
    return shown.length ? shown : all;
  }

  // --- weights -------------------------------------------------------------------------------------------------

  const blockOf = (head) => {
    const [, windows, heads] = layer().shape;
    return (state.sample * windows + state.window) * heads + head;
  };
  const headsOf = () => (typeof state.head === "number" ? [state.head] : Array.from({ length: layer().shape[2] }, (_, head) => head));

  // Adds one row of the map, the weights of a query, to an array.
  function rowOf({ scales, bytes }, query, into, start) {
    const [, , , rows, columns] = layer().shape;
    const heads = headsOf();
    for (const head of heads) {
      const scale = scales[blockOf(head)];
      const from = (blockOf(head) * rows + query) * columns;
      if (state.head === "max") for (let key = 0; key < columns; key++) into[start + key] = Math.max(into[start + key], scale * SQUARES[bytes[from + key]]);
      else for (let key = 0; key < columns; key++) into[start + key] += (scale * SQUARES[bytes[from + key]]) / heads.length;
    }
  }

  // Attention to a word is the sum over its tokens, attention from a word the mean (Clark et al. 2019).
  function merged(maps, positions, groups) {
    const columns = layer().shape[4];
    const total = new Float32Array(groups.length);
    for (const position of positions) {
      const row = new Float32Array(columns);
      rowOf(maps, position, row, 0);
      groups.forEach(({ positions: keys }, at) => { for (const key of keys) total[at] += row[key] / positions.length; });
    }
    return total;
  }

  function wholeOf(maps, rows, columns) {
    const [, , , all, wide] = layer().shape;
    const whole = new Float32Array(rows.length * columns.length);
    if (rows.length === all && columns.length === wide) for (let query = 0; query < all; query++) rowOf(maps, query, whole, query * wide);
    else rows.forEach(({ positions }, at) => whole.set(merged(maps, positions, columns), at * columns.length));
    return whole;
  }

  // Positions that the scale is for: patches and words. If there are no others, special tokens and padding count.
  function countedOf(axis, groups) {
    const counted = [...groups.keys()].filter((at) => groups[at].positions.some((position) => !isSpecial(axis, position) && !isPadding(axis, position)));
    return counted.length ? counted : [...groups.keys()];
  }

  const greatest = (values) => values.reduce((most, value) => (value > most ? value : most), 0);
  const rounded = (value) => (value === 0 ? "0" : value >= 0.001 ? value.toFixed(3) : value.toExponential(1));

  // --- scales: those of anylocal.plot ------------------------------------------------------------------------------

  function quantile(sorted, share) {
    const at = share * (sorted.length - 1);
    const low = sorted[Math.floor(at)];
    return low + (at % 1) * (sorted[Math.ceil(at)] - low);
  }

  // Where the scale of weights at a number of keys ends: see anylocal._drawing.scale.top_of.
  function topOf(sorted, keys) {
    if (!sorted.length) return 1;
    const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
    const few = keys < data.few.keys && sorted.length < data.few.values;
    const top = few ? sorted[sorted.length - 1] : Math.max(Math.min(quantile(sorted, 0.995), 2 * quantile(sorted, 0.98)), mean);
    return top > 0 ? top : 1;
  }

  // The share of smaller weights: see anylocal._drawing.norms.Rank.
  function rankOf(sorted) {
    const count = Math.min(sorted.length, data.knots);
    const known = Float32Array.from({ length: count }, (_, at) => sorted[Math.floor((at * (sorted.length - 1)) / Math.max(1, count - 1))]);
    const first = [...known.keys()].filter((at) => at === 0 || known[at] > known[at - 1]);
    const [knots, ranks] = first.length > 1 ? [first.map((at) => known[at]), first.map((at) => at / first[first.length - 1])] : [[0, known[0] || 1], [0, 1]];
    return (value) => {
      let [low, high] = [0, knots.length - 1];
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (knots[middle] <= value) low = middle;
        else high = middle;
      }
      return ranks[low] + ((ranks[high] - ranks[low]) * (value - knots[low])) / (knots[high] - knots[low]);
    };
  }

  // The scale for the counted weights of a picture whose greatest is `most`; `top` if it is shared with others.
  function scaleOf(counted, keys, most, norm, top = null) {
    const ranked = norm === "rank";
    const sorted = top === null || ranked ? Float32Array.from(counted).sort() : null;
    const end = ranked ? greatest(sorted) : top ?? topOf(sorted, keys);
    const level = {
      linear: (value) => value / end,
      sqrt: (value) => Math.sqrt(value / end),
      log: (value) => 1 + Math.log10(Math.max(value / end, 1e-12)) / data.decades,
      rank: ranked ? rankOf(sorted) : null,
    }[norm];
    return {
      top: end,
      least: norm === "log" ? `≤ ${rounded(end / 10 ** data.decades)}` : "0",
      most: most > 1.0001 * end ? `≥ ${rounded(end)} (maximum ${rounded(most)})` : rounded(end),
      isClipped: most > 1.0001 * end,
      // Index of a weight's colour, of 256.
      step: (value) => Math.round(255 * Math.min(1, Math.max(0, level(value)))),
    };
  }

  const normOf = (usual) => (state.norm === "default" ? usual : state.norm);
  const sharedTop = () => (state.scale === "one" ? layer().tops[state.sample] : null);

  // The colour of a step as it is on a grey ground, if it lets light through.
  function colour(table, step) {
    const opacity = table[4 * step + 3] / 255;
    return [0, 1, 2].map((channel) => Math.round(opacity * table[4 * step + channel] + (1 - opacity) * data.colours.background));
  }

  function imageOf(values, width, height, scale, table) {
    const image = new ImageData(width, height);
    for (let at = 0; at < values.length; at++) {
      // NaN where no window holds a patch.
      if (Number.isNaN(values[at])) continue;
      const step = 4 * scale.step(values[at]);
      image.data.set(table.subarray(step, step + 4), 4 * at);
    }
    return image;
  }

  // Draws the legend of a scale; a triangle at its end stands for greater weights.
  function drawLegend(name, scale, table) {
    const [width, height, tip] = [128, 9, scale.isClipped ? 8 : 0];
    const drawing = sized($(`${name}-ramp`), width, height);
    drawing.beginPath();
    for (const [x, y] of [[0, 0], [width - tip, 0], [width, height / 2], [width - tip, height], [0, height]]) drawing.lineTo(x, y);
    drawing.closePath();
    drawing.save();
    drawing.clip();
    for (let x = 0; x < width; x++) {
      drawing.fillStyle = `rgb(${colour(table, Math.min(255, Math.round((255 * x) / (width - tip)))).join(" ")})`;
      drawing.fillRect(x, 0, 1.5, height);
    }
    drawing.restore();
    // Or the light end of the colours would be lost on light paper, and the dark one on dark paper.
    drawing.strokeStyle = css("--quiet");
    drawing.stroke();
    $(`${name}-least`).textContent = scale.least;
    $(`${name}-most`).textContent = scale.most;
    $(`${name}-ramp`).dataset.top = String(scale.top);
  }

  function canvasOf(image) {
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Sets the size of a canvas in CSS pixels, and draws sharply on any screen.
  function sized(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    return context;
  }

  // --- all heads of all layers -------------------------------------------------------------------------------------

  const overview = { cell: 0, left: 0, top: 16, thumbs: null };

  function readThumbs(buffer) {
    const count = data.layers.reduce((sum, { shape }) => sum + data.samples.length * shape[2], 0);
    const { scales, bytes } = split(buffer, count);
    let block = 0;
    let start = 0;
    overview.thumbs = data.layers.map(({ thumbs }) =>
      thumbs.map(({ shape: [rows, columns], tops }) =>
        tops.map((top) => {
          const values = new Float32Array(rows * columns);
          for (let at = 0; at < values.length; at++) values[at] = scales[block] * SQUARES[bytes[start + at]];
          block += 1;
          start += values.length;
          return { values, rows, columns, top };
        })));
  }

  function drawGrid() {
    const canvas = $("grid");
    const columns = Math.max(...data.layers.map(({ shape }) => shape[2]));
    const context = canvas.getContext("2d");
    context.font = "11px system-ui, sans-serif";
    overview.left = 8 + Math.max(...data.layers.map(({ short }) => context.measureText(short).width));
    const room = $("overview").clientWidth - overview.left;
    overview.cell = Math.max(10, Math.min(52, room / columns));
    const drawing = sized(canvas, overview.left + overview.cell * columns, overview.top + overview.cell * data.layers.length);
    drawing.font = "11px system-ui, sans-serif";
    drawing.fillStyle = css("--quiet");
    drawing.textAlign = "center";
    const every = Math.ceil(18 / overview.cell);
    for (let head = 0; head < columns; head += every) drawing.fillText(String(head), overview.left + (head + 0.5) * overview.cell, 11);
    data.layers.forEach((_, number) => drawRow(drawing, number));
    markGrid(drawing);
    const norm = normOf("sqrt");
    const ends = norm === "rank" ? "by rank in each map" : `(${norm}) up to ${state.scale === "one" ? `${rounded(data.tops[state.sample])} in all maps` : "a robust maximum of each map"}`;
    $("grid-note").textContent = `One row per layer, one column per head; colours ${ends}.`;
  }

  function drawRow(drawing, number) {
    const { cell, left, top, thumbs } = overview;
    drawing.fillStyle = css("--quiet");
    drawing.textAlign = "right";
    drawing.fillText(data.layers[number].short, left - 5, top + (number + 0.5) * cell + 4);
    thumbs[number][state.sample].forEach((thumb, head) => {
      const scale = scaleOf(thumb.values, thumb.columns, 0, normOf("sqrt"), state.scale === "one" ? data.tops[state.sample] : thumb.top);
      const image = canvasOf(imageOf(thumb.values, thumb.columns, thumb.rows, scale, TABLES.map));
      drawing.imageSmoothingEnabled = thumb.columns > cell;
      drawing.drawImage(image, left + head * cell, top + number * cell, cell - 2, cell - 2);
    });
  }

  function markGrid(drawing) {
    const { cell, left, top } = overview;
    drawing.strokeStyle = css("--accent");
    drawing.lineWidth = 2;
    const heads = headsOf();
    drawing.strokeRect(left + heads[0] * cell - 1, top + state.layer * cell - 1, heads.length * cell, cell);
  }

  // --- panels: the positions of an axis, over the image or as a line of tokens ------------------------------------------

  const pictures = data.images.map((source) => {
    if (!source) return null;
    const image = new Image();
    image.src = source;
    return image;
  });

  class Panel {
    constructor(root, title) {
      this.root = root;
      this.root.replaceChildren();
      this.title = document.createElement("h3");
      this.title.textContent = title;
      this.tokens = document.createElement("div");
      this.tokens.className = "tokens";
      this.canvas = document.createElement("canvas");
      this.canvas.setAttribute("aria-hidden", "true");
      this.root.append(this.title, this.tokens, this.canvas);
      this.tokens.addEventListener("pointerover", ({ target }) => this.pick(target.dataset?.positions?.split(" ")[0]));
      this.tokens.addEventListener("click", ({ target }) => this.pick(target.dataset?.positions?.split(" ")[0]));
      for (const kind of ["pointermove", "pointerdown"]) this.canvas.addEventListener(kind, (event) => this.pickCell(event));
    }

    // Shows an axis; `choose` is called with a position and a window.
    show(axis, groups, choose) {
      Object.assign(this, { axis, groups, choose });
      const patches = axis.kind === "patches";
      this.spans = groups.filter(({ positions }) => !patches || positions[0] < axis.prefix.length).map((group) => this.span(group));
      this.tokens.replaceChildren(...this.spans);
      this.tokens.hidden = this.spans.length === 0;
      this.tokens.dir = /^[^A-Za-z]*[\u0590-\u08ff\ufb1d-\ufefc]/.test(groups.filter(({ positions }) => !isSpecial(axis, positions[0])).map(({ label }) => label).join("")) ? "rtl" : "ltr";
      this.canvas.hidden = !patches;
    }

    span({ label, positions }) {
      const span = document.createElement("span");
      span.className = "token";
      span.classList.toggle("padding", isPadding(this.axis, positions[0]));
      span.textContent = label.replaceAll("\n", "⏎").replace(/^\s*$/, "␣");
      span.dataset.positions = positions.join(" ");
      return span;
    }

    pick(position) {
      if (position !== undefined && this.choose) this.choose(Number(position), state.window);
    }

    pickCell(event) {
      if (!this.choose) return;
      const box = this.canvas.getBoundingClientRect();
      const [rows, columns] = this.axis.grid;
      const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
      const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
      this.pickPlace(row * columns + column);
    }

    // In a windowed layer, the place also determines the window.
    pickPlace(place) {
      const windows = layer().shape[1];
      for (let nth = 0; nth < windows; nth++) {
        const window = (state.window + nth) % windows;
        for (let position = this.axis.prefix.length; position < this.axis.length; position++) {
          if (placeOf(this.axis, position, window) === place) return this.choose(position, window);
        }
      }
    }

    get picture() {
      return this.axis.kind === "patches" ? pictures[state.sample % Math.max(1, pictures.length)] : null;
    }

    get table() {
      return this.picture ? TABLES.image : TABLES.map;
    }

    // Weights of the groups, in their order, or null for positions without weights; `chosen` is one position.
    paint(weights, scale, chosen) {
      this.spans.forEach((span, at) => {
        const index = this.axis.kind === "patches" ? this.groups.findIndex(({ positions }) => String(positions[0]) === span.dataset.positions) : at;
        const shade = weights ? colour(this.table, scale.step(weights[index])) : null;
        span.style.background = shade ? `rgb(${shade.join(" ")})` : "";
        // Black or white text, by the luma of the background.
        span.style.color = shade ? (0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 140 ? "#000" : "#fff") : "";
        span.classList.toggle("chosen", span.dataset.positions.split(" ").includes(String(chosen)));
        span.title = weights ? `${span.textContent}: ${rounded(weights[index])}` : "";
        // Cells beside an image are too few to compare by colour, and often beyond the scale.
        if (weights && this.axis.kind === "patches") span.dataset.weight = rounded(weights[index]);
      });
      if (this.axis.kind === "patches") this.paintImage(weights, scale, chosen);
    }

    paintImage(weights, scale, chosen) {
      const [rows, columns] = this.axis.grid;
      const { picture } = this;
      const [high, wide] = this.axis.size ?? (picture ? [picture.naturalHeight, picture.naturalWidth] : [rows, columns]);
      const most_wide = Math.min(460, this.root.clientWidth || 460);
      const width = Math.min(most_wide, (460 * wide) / high);
      const height = (width * high) / wide;
      const drawing = sized(this.canvas, width, height);
      drawing.fillStyle = css("--empty");
      drawing.fillRect(0, 0, width, height);
      if (picture?.naturalWidth) drawing.drawImage(picture, 0, 0, width, height);
      if (weights) {
        const cells = new Float32Array(rows * columns).fill(NaN);
        this.groups.forEach(({ positions: [position] }, at) => {
          const place = placeOf(this.axis, position);
          if (place >= 0) cells[place] = weights[at];
        });
        drawing.imageSmoothingEnabled = false;
        drawing.drawImage(canvasOf(imageOf(cells, columns, rows, scale, this.table)), 0, 0, width, height);
      }
      const place = chosen === null ? -1 : placeOf(this.axis, chosen);
      if (place < 0) return;
      const [x, y, w, h] = [(place % columns) * (width / columns), Math.floor(place / columns) * (height / rows), width / columns, height / rows];
      for (const [style, line] of [["#000", 4], ["#fff", 2]]) {
        drawing.strokeStyle = style;
        drawing.lineWidth = line;
        drawing.strokeRect(x, y, w, h);
      }
    }

    // The centre of a position on the screen.
    anchor(position) {
      const span = this.spans.find(({ dataset }) => dataset.positions.split(" ").includes(String(position)));
      if (span) {
        const box = span.getBoundingClientRect();
        return { x: box.left + box.width / 2, top: box.top, bottom: box.bottom, lift: 1 };
      }
      const place = this.axis.kind === "patches" ? placeOf(this.axis, position) : -1;
      if (place < 0) return null;
      const box = this.canvas.getBoundingClientRect();
      const [rows, columns] = this.axis.grid;
      const y = box.top + (Math.floor(place / columns) + 0.5) * (box.height / rows);
      return { x: box.left + ((place % columns) + 0.5) * (box.width / columns), top: y, bottom: y, lift: 0 };
    }
  }

  const from = new Panel($("from"), "queries");
  const to = new Panel($("to"), "keys");

  // --- map and query -------------------------------------------------------------------------------------------------

  let maps = null;
  let rows = [];
  let columns = [];

  function drawMap() {
    const whole = wholeOf(maps, rows, columns);
    const [down, across] = [countedOf(queries(), rows), countedOf(keys(), columns)];
    const counted = new Float32Array(down.length * across.length);
    down.forEach((row, y) => across.forEach((column, x) => { counted[y * across.length + x] = whole[row * columns.length + column]; }));
    const scale = scaleOf(counted, across.length, greatest(whole), normOf("sqrt"), sharedTop());
    const canvas = $("map");
    [canvas.width, canvas.height] = [columns.length, rows.length];
    // Cells are square, unless one side of the map is more than four times the other.
    canvas.style.aspectRatio = String(Math.min(4, Math.max(0.25, columns.length / rows.length)));
    canvas.getContext("2d").putImageData(imageOf(whole, columns.length, rows.length, scale, TABLES.map), 0, 0);
    Object.assign(drawMap, { whole });
    drawLabels();
    drawLegend("map", scale, TABLES.map);
    const count = layer().shape[2];
    const together = count > 1 && (state.head === "mean" || state.head === "max");
    const heads = together ? `${state.head} of ${count} heads` : `head ${count > 1 ? state.head : 0}`;
    $("heading").textContent = [layer().name || `layer ${layer().ref}`, heads].join(", ");
  }

  // Labels beside the map, if they are few enough to be readable.
  function drawLabels() {
    const few = rows.length <= 48 && columns.length <= 48;
    for (const id of ["left", "top"]) $(id).hidden = !few;
    if (!few) return;
    const measure = $("left").getContext("2d");
    const size = (count) => Math.max(6, Math.min(11, (0.9 * $("frame").clientWidth) / count / 1.15));
    const width = (groups) => {
      measure.font = `${size(groups.length)}px system-ui, sans-serif`;
      return Math.min(90, 6 + Math.max(...groups.map(({ label }) => measure.measureText(label).width)));
    };
    const [left, top] = [width(rows), width(columns)];
    sized($("left"), left, 1);
    const map = { width: $("map").clientWidth, height: $("map").clientHeight };
    writeLabels(sized($("left"), left, map.height), rows, size(rows.length), left, (drawing, at) => drawing.translate(left - 4, ((at + 0.5) * map.height) / rows.length), "right");
    writeLabels(sized($("top"), map.width, top), columns, size(columns.length), top, (drawing, at) => {
      drawing.translate(((at + 0.5) * map.width) / columns.length, top - 4);
      drawing.rotate(-Math.PI / 2);
    }, "left");
  }

  function writeLabels(drawing, groups, size, room, place, align) {
    drawing.font = `${size}px system-ui, sans-serif`;
    drawing.fillStyle = css("--quiet");
    drawing.textAlign = align;
    drawing.textBaseline = "middle";
    groups.forEach(({ label }, at) => {
      drawing.save();
      place(drawing, at);
      drawing.fillText(label, 0, 0, room - 5);
      drawing.restore();
    });
  }

  function drawQuery() {
    const group = rows.find(({ positions }) => positions.includes(state.query)) ?? { label: labelOf(queries(), state.query), positions: [state.query] };
    const weights = merged(maps, group.positions, columns);
    const most = greatest(weights);
    const counted = countedOf(keys(), columns);
    const scale = scaleOf(counted.map((at) => weights[at]), counted.length, most, normOf("linear"), sharedTop());
    $("asked").textContent = `What ${group.label} attends to`;
    to.paint(weights, scale, isShared() ? state.query : null);
    if (!isShared()) from.paint(null, null, state.query);
    drawLegend("row", scale, to.table);
    const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, state.strongest);
    drawLines(order, weights, most);
    listStrongest(order, weights, group);
    markRow();
    $("query").value = String(state.query);
    $("query").setAttribute("aria-valuetext", group.label);
    $("call").textContent = call();
  }

  function drawLines(order, weights, most) {
    const box = $("stage").getBoundingClientRect();
    const drawing = sized($("lines"), box.width, box.height);
    const start = (isShared() ? to : from).anchor(state.query);
    if (!start) return;
    for (const at of [...order].reverse()) {
      const end = to.anchor(columns[at].positions[0]);
      if (!end || weights[at] <= 0 || (end.x === start.x && end.top === start.top)) continue;
      const share = weights[at] / most;
      const path = new Path2D();
      const [x0, x1] = [start.x - box.left, end.x - box.left];
      // Between tokens of one line, an arc above it: a straight line would cross them out.
      if (end.top === start.top && start.lift) {
        const y = start.top - box.top;
        path.moveTo(x0, y);
        path.quadraticCurveTo((x0 + x1) / 2, y - Math.min(30, 10 + Math.abs(x1 - x0) / 9), x1, y);
      } else {
        const [y0, y1] = end.top > start.top ? [start.bottom - box.top, end.top - box.top] : [start.top - box.top, end.bottom - box.top];
        path.moveTo(x0, y0);
        path.bezierCurveTo(x0, y0 + (start.lift * (y1 - y0)) / 2, x1, y1 - (end.lift * (y1 - y0)) / 2, x1, y1);
      }
      for (const [style, width] of [[css("--paper"), 2.4 + 2.6 * share], [css("--accent"), 0.6 + 2.6 * share]]) {
        drawing.strokeStyle = style;
        drawing.globalAlpha = 0.35 + 0.6 * share;
        drawing.lineWidth = width;
        drawing.stroke(path);
      }
    }
  }

  function listStrongest(order, weights, group) {
    $("list").replaceChildren(...order.map((at) => {
      const item = document.createElement("li");
      item.textContent = `${columns[at].label}  ${rounded(weights[at])}`;
      return item;
    }));
    const shown = new Set(columns.flatMap(({ positions }) => positions));
    const hidden = Array.from({ length: keys().length }, (_, position) => position).filter((position) => !shown.has(position));
    const [rest] = merged(maps, group.positions, [{ positions: hidden }]);
    $("hidden-mass").textContent = state.head !== "max" && rest > data.error * hidden.length ? `Hidden positions get ${rounded(rest)} of the attention.` : "";
  }

  function markRow() {
    const at = rows.findIndex(({ positions }) => positions.includes(state.query));
    $("band").hidden = at < 0;
    $("band").style.top = `${(100 * at) / rows.length}%`;
    $("band").style.height = `${100 / rows.length}%`;
  }

  // The Python call that draws the same picture.
  function call() {
    const map = `maps[${layer().ref}]`;
    const windows = layer().shape[1];
    const image = data.samples[state.sample];
    const matrix = image * windows + state.window;
    const norm = ["default", "linear"].includes(state.norm) ? [] : [`norm="${state.norm}"`];
    if (state.head === "max") return `plot.heatmap(${map}[${matrix}].amax(0), norm="${normOf("sqrt")}")`;
    const rest = [...(state.head === "mean" ? [] : [`head=${state.head}`]), ...norm];
    const options = [...(data.batch > 1 ? [`sample=${image}`] : []), ...rest];
    if (keys().kind === "patches" && data.images.length && queries().kind === "patches") {
      const label = labelOf(queries(), state.query);
      const query = label.startsWith("(") ? label : JSON.stringify(label);
      return `plot.query(${[map, "images", `query=${query}`, ...options].join(", ")})`;
    }
    if (keys().kind === "tokens" && queries().kind === "tokens") {
      const words = state.words ? ofText(queries(), "words") : null;
      const query = words ? words.findIndex((positions) => positions.includes(state.query)) : state.query;
      return `plot.tokens(${[map, `queries=[${query}]`, ...options, ...(words ? ["words=True"] : [])].join(", ")})`;
    }
    const sample = data.batch * windows > 1 ? [`sample=${matrix}`] : [];
    return `plot.heatmap(${[map, `queries=[${state.query}]`, ...sample, ...rest].join(", ")})`;
  }

  // --- state and events -----------------------------------------------------------------------------------------

  const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));

  function choose(query, window) {
    const another = window !== state.window;
    if (!another && query === state.query) return;
    Object.assign(state, { query, window });
    $("window").value = String(window);
    if (another) update();
    else drawQuery();
  }

  function fillControls() {
    const options = (values) => values.map(([value, text]) => new Option(text, value));
    $("layer").replaceChildren(...options(data.layers.map(({ name, short }, at) => [at, name || short])));
    $("sample").replaceChildren(...options(data.samples.map((sample, at) => [at, sample])));
    $("sample-label").hidden = data.samples.length === 1;
    $("words-label").hidden = !data.axes.some(({ words }) => words);
    const any = (rows) => rows?.some((row) => row.some(Boolean));
    $("special-label").hidden = !data.axes.some((axis) => any(axis.special) || axis.prefix?.length);
    $("padding-label").hidden = !data.axes.some((axis) => any(axis.padding) || axis.places?.some((places) => places.includes(-1)));
  }

  function fitControls() {
    const [, windows, heads] = layer().shape;
    if (typeof state.head === "number") state.head = clamp(state.head, heads);
    state.window = clamp(state.window, windows);
    state.query = clamp(state.query, queries().length);
    const choices = [...Array.from({ length: heads }, (_, head) => [head, `${head}`]), ["mean", "mean of heads"], ["max", "max of heads"]];
    if ($("head").options.length !== choices.length) $("head").replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    $("layer").value = String(state.layer);
    $("head").value = String(state.head);
    $("window-label").hidden = windows === 1;
    $("window").max = String(windows - 1);
    $("window").value = String(state.window);
    $("query").max = String(queries().length - 1);
  }

  let turn = 0;
  async function update() {
    const own = (turn += 1);
    fitControls();
    const found = await open(state.layer);
    // Another layer was selected while this one was unpacked.
    if (own !== turn) return;
    maps = found;
    rows = groupsOf(queries());
    columns = groupsOf(keys());
    // A hidden position cannot be the query.
    if (isHidden(queries(), state.query)) state.query = rows[0].positions[0];
    $("from").hidden = isShared();
    to.title.hidden = isShared();
    if (!isShared()) from.show(queries(), rows, choose);
    to.show(keys(), columns, isShared() ? choose : null);
    drawGrid();
    drawMap();
    drawQuery();
    document.documentElement.dataset.turn = String(turn);
  }

  function listen() {
    const number = (text) => (/^\d+$/.test(text) ? Number(text) : text);
    for (const id of ["layer", "head", "sample", "norm", "scale", "window", "strongest"]) {
      $(id).addEventListener("input", () => {
        if ($(id).value === "") return;
        state[id] = number($(id).value);
        state.strongest = clamp(state.strongest, 21);
        run(update);
      });
    }
    for (const id of ["padding", "special", "words"]) $(id).addEventListener("input", () => { state[id] = $(id).checked; run(update); });
    $("query").addEventListener("input", () => choose(Number($("query").value), state.window));
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    $("grid").addEventListener("click", (event) => chooseCell(event));
    $("grid").addEventListener("keydown", (event) => moveCell(event));
    for (const kind of ["pointermove", "pointerdown"]) $("map").addEventListener(kind, (event) => readMap(event));
    $("map").addEventListener("keydown", (event) => moveRow(event));
    $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
    $("copy").addEventListener("click", () => run(copy));
    $("png").addEventListener("click", () => run(save));
    new ResizeObserver(() => maps && run(update)).observe(document.querySelector("main"));
  }

  function chooseCell(event) {
    const head = Math.floor((event.offsetX - overview.left) / overview.cell);
    const number = Math.floor((event.offsetY - overview.top) / overview.cell);
    if (number < 0 || number >= data.layers.length || head >= data.layers[number].shape[2]) return;
    // A click on the name of a layer selects the mean of its heads.
    Object.assign(state, { layer: number, head: head < 0 ? "mean" : head });
    run(update);
  }

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  function moveCell(event) {
    const move = ARROWS[event.key];
    if (!move) return;
    event.preventDefault();
    state.layer = clamp(state.layer + move[0], data.layers.length);
    const head = typeof state.head === "number" ? state.head : 0;
    state.head = clamp(head + move[1], layer().shape[2]);
    run(update);
  }

  function moveRow(event) {
    const move = ARROWS[event.key];
    if (!move) return;
    event.preventDefault();
    const at = rows.findIndex(({ positions }) => positions.includes(state.query));
    const next = move[0] || move[1];
    choose(rows[clamp(at + next, rows.length)].positions[0], state.window);
  }

  function readMap(event) {
    const box = $("map").getBoundingClientRect();
    const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows.length), rows.length);
    const column = clamp(Math.floor(((event.clientX - box.left) / box.width) * columns.length), columns.length);
    choose(rows[row].positions[0], state.window);
    $("readout").textContent = `${rows[row].label} → ${columns[column].label}: ${rounded(drawMap.whole[row * columns.length + column])}`;
  }

  function setTheme(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").textContent = dark ? "Light" : "Dark";
    $("theme").setAttribute("aria-pressed", String(dark));
    if (maps) run(update);
  }

  async function copy() {
    const text = $("call").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Frames in notebooks may not use the clipboard.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    $("copy").textContent = "Copied";
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  }

  // Draws the query and the map, as on the screen, into one picture.
  async function save() {
    const parts = [$("stage"), $("detail")].map((part) => part.getBoundingClientRect());
    const [left, top] = [Math.min(...parts.map((part) => part.left)) - 10, Math.min(...parts.map((part) => part.top)) - 10];
    const wide = Math.max(...parts.map((part) => part.right)) + 10 - left;
    const high = Math.max($("row-most").getBoundingClientRect().bottom, $("map-most").getBoundingClientRect().bottom) + 10 - top;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * wide, 2 * high];
    const drawing = canvas.getContext("2d");
    drawing.scale(2, 2);
    drawing.fillStyle = css("--paper");
    drawing.fillRect(0, 0, wide, high);
    const boxOf = (node) => { const box = node.getBoundingClientRect(); return [box.left - left, box.top - top, box.width, box.height]; };
    for (const node of document.querySelectorAll("#stage .panel canvas:not([hidden]), #frame canvas:not([hidden]), .ramp")) {
      drawing.imageSmoothingEnabled = node.id !== "map";
      drawing.drawImage(node, ...boxOf(node));
    }
    for (const node of document.querySelectorAll("#stage .token")) printToken(drawing, node, boxOf(node));
    drawing.drawImage($("lines"), ...boxOf($("lines")));
    for (const node of document.querySelectorAll("main [data-print], .panel h3:not([hidden])")) printText(drawing, node, boxOf(node), css("--ink"));
    const link = document.createElement("a");
    link.href = canvas.toDataURL("image/png");
    link.download = "attention.png";
    link.click();
  }

  function printToken(drawing, node, [x, y, w, h]) {
    const style = getComputedStyle(node);
    drawing.fillStyle = style.backgroundColor;
    drawing.fillRect(x, y, w, h);
    if (node.classList.contains("chosen")) { drawing.strokeStyle = css("--accent"); drawing.lineWidth = 2; drawing.strokeRect(x - 2, y - 2, w + 4, h + 4); }
    printText(drawing, node, [x + 4, y, w - 8, h], style.color);
  }

  function printText(drawing, node, [x, y, , h], ink) {
    const style = getComputedStyle(node);
    drawing.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    drawing.fillStyle = ink;
    drawing.textAlign = "left";
    drawing.textBaseline = "middle";
    drawing.fillText([node.textContent, node.dataset.weight ?? ""].join(" ").trimEnd(), x, y + h / 2);
  }

  function report(error) {
    $("problem").hidden = false;
    $("problem").textContent = String(error?.message ?? error);
  }
  const run = (what) => Promise.resolve().then(what).catch(report);

  async function start() {
    setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
    fillControls();
    Object.assign(state, data.start);
    $("scale").value = state.scale;
    readThumbs(await unpack("thumbs"));
    await Promise.all(pictures.filter(Boolean).map((picture) => picture.decode()));
    await update();
    listen();
    document.documentElement.dataset.drawn = performance.now().toFixed(0);
  }
  run(start);
})();
