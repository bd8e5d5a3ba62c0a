// The map of one head: rows are queries, columns keys. The canvas is as large as its window and draws what is scrolled to.

import { colour, ends, ink, place } from "./colours.js";
import { $ } from "./elements.js";

const LEAST_CELL = 2; // px
const NAMED_CELL = 11; // px, from which on every row and column has its token written beside it
const NUMBERED_CELL = 22; // px, from which on a cell has its value written in it
const GUTTER = 72; // px
const FONT = "system-ui, sans-serif";

export class Heatmap {
  /**
   * @param {HTMLElement} box scrolls; holds an extent, which is as large as all cells, and a canvas
   * @param {{point: (query: number, key: number) => void, leave: () => void, pick: (query: number) => void}} on
   *   what a person does
   */
  constructor(box, on) {
    Object.assign(this, { box, on, extent: box.querySelector(".extent"), canvas: box.querySelector("canvas") });
    this.at = undefined; // {row, column} under the crosshair, among the shown
    box.addEventListener("scroll", () => this.draw());
    box.addEventListener("pointermove", (event) => this.#follow(event));
    box.addEventListener("pointerdown", (event) => this.#follow(event));
    box.addEventListener("pointerleave", () => this.#leave());
    box.addEventListener("click", () => this.at && on.pick(this.shown[this.at.row]));
    box.addEventListener("keydown", (event) => this.#press(event));
    new ResizeObserver(() => this.map && this.#measure()).observe(box);
  }

  /**
   * Shows a map.
   * @param {Float32Array} map [query, key]
   * @param {string[]} names of the positions
   * @param {number[]} shown positions, the others are left out
   */
  show(map, names, shown, log, query) {
    Object.assign(this, { map, names, shown, log, query, size: names.length });
    this.most = Math.max(1e-9, most(map, shown, this.size));
    if (this.at && Math.max(this.at.row, this.at.column) >= shown.length) this.at = undefined;
    this.#measure();
  }

  #measure() {
    const { clientWidth: width, clientHeight: height } = this.box;
    this.cell = Math.max(LEAST_CELL, (Math.min(width, height) - GUTTER - 2) / this.shown.length);
    const extent = `${GUTTER + this.cell * this.shown.length}px`;
    Object.assign(this.extent.style, { width: extent, height: extent });
    const size = { width: Math.round(width * devicePixelRatio), height: Math.round(height * devicePixelRatio) };
    if (this.canvas.width !== size.width || this.canvas.height !== size.height) {
      Object.assign(this.canvas, size);
      Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    this.draw();
  }

  draw() {
    const { canvas, box, cell, shown } = this;
    if (!this.map) return;
    const context = canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const [left, top] = [box.scrollLeft, box.scrollTop];
    const range = (from, room) => [Math.floor(from / cell), Math.min(shown.length, Math.ceil((from + room - GUTTER) / cell))];
    const rows = range(top, box.clientHeight);
    const columns = range(left, box.clientWidth);
    const window = { context, rows, columns, x: (column) => GUTTER + column * cell - left, y: (row) => GUTTER + row * cell - top };
    this.#cells(window);
    if (cell >= NUMBERED_CELL) this.#numbers(window);
    this.#crosshair(window);
    context.clearRect(0, 0, GUTTER, canvas.height);
    context.clearRect(0, 0, canvas.width, GUTTER);
    this.#names(window);
  }

  #weight(row, column) {
    return this.map[this.shown[row] * this.size + this.shown[column]];
  }

  #place(row, column) {
    return place(this.#weight(row, column), this.most, this.log);
  }

  #cells({ context, rows: [top, bottom], columns: [left, right], x, y }) {
    if (bottom <= top || right <= left) return;
    const image = new ImageData(right - left, bottom - top);
    const words = new Uint32Array(image.data.buffer);
    let i = 0;
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) words[i++] = colour(this.#place(row, column));
    }
    const small = new OffscreenCanvas(image.width, image.height);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, x(left), y(top), image.width * this.cell, image.height * this.cell);
  }

  #numbers({ context, rows: [top, bottom], columns: [left, right], x, y }) {
    context.font = `${Math.min(12, this.cell / 2.7)}px ${FONT}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const weight = this.#weight(row, column);
        if (weight < 0.005) continue;
        context.fillStyle = ink(this.#place(row, column));
        const text = weight.toFixed(2).replace(/^0/, "");
        context.fillText(text, x(column + 0.5), y(row + 0.5));
      }
    }
  }

  #crosshair({ context, x, y }) {
    const style = getComputedStyle(this.box);
    const end = this.shown.length;
    const picked = this.shown.indexOf(this.query);
    context.strokeStyle = style.getPropertyValue("--accent");
    context.lineWidth = 1.5;
    if (picked >= 0) context.strokeRect(x(0), y(picked), x(end) - x(0), this.cell);
    if (!this.at) return;
    context.strokeStyle = style.color;
    context.lineWidth = 1;
    context.strokeRect(x(this.at.column), y(0), this.cell, y(end) - y(0));
    context.strokeRect(x(0), y(this.at.row), x(end) - x(0), this.cell);
  }

  #names({ context, rows, columns, x, y }) {
    const style = getComputedStyle(this.box);
    context.font = `12px ${FONT}`;
    context.textBaseline = "middle";
    const write = (range, marked, put) => {
      const all = this.cell >= NAMED_CELL ? Array.from({ length: range[1] - range[0] }, (_, i) => range[0] + i) : marked;
      for (const i of all) {
        context.fillStyle = marked.includes(i) ? style.color : style.getPropertyValue("--muted");
        put(i, cut(context, this.names[this.shown[i]]));
      }
    };
    const picked = this.shown.indexOf(this.query);
    context.textAlign = "right";
    write(rows, this.at ? [this.at.row] : picked < 0 ? [] : [picked], (row, name) => context.fillText(name, GUTTER - 6, y(row + 0.5)));
    context.textAlign = "left";
    write(columns, this.at ? [this.at.column] : [], (column, name) => {
      context.save();
      context.translate(x(column + 0.5), GUTTER - 6);
      context.rotate(-Math.PI / 2.6);
      context.fillText(name, 0, 0);
      context.restore();
    });
  }

  #follow(event) {
    const bounds = this.box.getBoundingClientRect();
    const at = (place, scrolled) => Math.floor((place - GUTTER + scrolled) / this.cell);
    const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
    if (x < GUTTER || y < GUTTER || !this.map) return this.#leave();
    this.#move(at(y, this.box.scrollTop), at(x, this.box.scrollLeft));
  }

  #move(row, column) {
    const end = this.shown.length - 1;
    if (row > end || column > end) return this.#leave();
    if (this.at?.row === row && this.at?.column === column) return;
    this.at = { row, column };
    this.draw();
    this.on.point(this.shown[row], this.shown[column]);
  }

  #leave() {
    if (!this.at) return;
    this.at = undefined;
    this.draw();
    this.on.leave();
  }

  #press(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" && this.at) this.on.pick(this.shown[this.at.row]);
    if (event.key === "Escape") this.#leave();
    if (!steps[event.key] || !this.map) return;
    event.preventDefault();
    const end = this.shown.length - 1;
    const from = this.at ?? { row: Math.max(0, this.shown.indexOf(this.query)), column: 0 };
    const [row, column] = steps[event.key];
    const within = (i) => Math.min(end, Math.max(0, i));
    this.#move(within(from.row + row), within(from.column + column));
    this.#reveal();
  }

  #reveal() {
    const room = (extent) => extent - GUTTER;
    const into = (scrolled, i, extent) => Math.min(i * this.cell, Math.max(scrolled, (i + 1) * this.cell - room(extent)));
    this.box.scrollTop = into(this.box.scrollTop, this.at.row, this.box.clientHeight);
    this.box.scrollLeft = into(this.box.scrollLeft, this.at.column, this.box.clientWidth);
  }
}

function most(map, shown, size) {
  let found = 0;
  for (const row of shown) for (const column of shown) found = Math.max(found, map[row * size + column]);
  return found;
}

function cut(context, name) {
  let text = name;
  while (text.length > 1 && context.measureText(text).width > GUTTER - 12) text = `${text.slice(0, -2)}…`;
  return text;
}

/** The scale under the map. */
export function drawScale(most, log) {
  const canvas = $("scale");
  const image = new ImageData(256, 1);
  new Uint32Array(image.data.buffer).set(Uint32Array.from({ length: 256 }, (_, i) => colour(i / 255)));
  canvas.getContext("2d").putImageData(image, 0, 0);
  [$("least").textContent, $("most").textContent] = ends(most, log);
}

/** A whole map in a small canvas, differences of both signs too. */
export function drawSmall(canvas, map, size, most) {
  Object.assign(canvas, { width: size, height: size });
  const image = new ImageData(size, size);
  const words = new Uint32Array(image.data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = colour(map[i] / most);
  canvas.getContext("2d").putImageData(image, 0, 0);
}
