// All heads, layers × heads: a small picture and a word for each. One is chosen; arrows choose too.

import { colour } from "./colours.js";
import { make } from "./elements.js";

const CELLS = 32; // of a small picture, at most, along each side

/** Where [query, key] of a long sequence lie in a small picture, of which a cell is the largest weight in it. */
class Thumbnail {
  constructor(size) {
    this.size = size;
    this.side = Math.min(size, CELLS);
    this.cells = new Float32Array(this.side ** 2);
  }

  add(query, key, weight) {
    const at = (i) => Math.floor((i * this.side) / this.size);
    const cell = at(query) * this.side + at(key);
    this.cells[cell] = Math.max(this.cells[cell], weight);
  }

  draw(canvas) {
    Object.assign(canvas, { width: this.side, height: this.side });
    const image = new ImageData(this.side, this.side);
    const most = Math.max(1e-9, ...this.cells);
    new Uint32Array(image.data.buffer).set(Uint32Array.from(this.cells, (weight) => colour(weight / most)));
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

/** Of each query's strongest keys: values and indices [head, query, k]. */
function ofStrongest({ data: values, shape: [, size, kept] }, { data: indices }, head) {
  const picture = new Thumbnail(size);
  for (let query = 0; query < size; query++) {
    for (let i = (head * size + query) * kept, end = i + kept; i < end; i++) picture.add(query, indices[i], values[i]);
  }
  return picture;
}

/** Of a whole map [query, key]. */
function ofMap(map, size) {
  const picture = new Thumbnail(size);
  for (let query = 0; query < size; query++) {
    for (let key = 0; key < size; key++) picture.add(query, key, map[query * size + key]);
  }
  return picture;
}

export class HeadGrid {
  /** @param {(layer: number, head: number) => void} choose called when a person chooses a head */
  constructor(box, choose) {
    Object.assign(this, { box, choose, heads: [] });
    box.addEventListener("keydown", (event) => this.#press(event));
  }

  /**
   * @param {{values: object, indices: object}[]} strongest of each layer
   * @param {object[][]} measures [layer][head], labels.js
   * @param {(layer: number, head: number, measure: object) => string} name what is said of a head
   */
  show(strongest, measures, name) {
    this.heads = measures.flatMap((layer, l) =>
      layer.map((measure, h) => {
        const picture = ofStrongest(strongest[l].values, strongest[l].indices, h);
        return { layer: l, head: h, measure, picture, button: this.#button(l, h) };
      }),
    );
    this.columns = Math.max(1, ...measures.map((layer) => layer.length));
    this.redraw(name);
  }

  #button(layer, head) {
    const button = make("button", { type: "button", role: "radio", class: "head" }, make("canvas"), make("span"));
    button.addEventListener("click", () => this.choose(layer, head));
    return button;
  }

  /** A layer's pictures anew, of its whole maps. */
  refine(layer, mapOf, size) {
    for (const one of this.heads) {
      if (one.layer !== layer) continue;
      one.picture = ofMap(mapOf(one.head), size);
      one.picture.draw(one.button.firstChild);
    }
  }

  redraw(name) {
    for (const { layer, head, measure, picture, button } of this.heads) {
      picture.draw(button.firstChild);
      const said = name(layer, head, measure);
      button.title = said;
      button.setAttribute("aria-label", said);
      button.lastChild.textContent = `${layer}.${head}`;
      button.dataset.label = measure.label;
    }
  }

  /** In the order of layers, or those first that have most of a measure. */
  sort(by) {
    const left = this.order?.find(({ button }) => button === document.activeElement);
    const order = [...this.heads];
    if (by !== "layers") order.sort((a, b) => b.measure[by] - a.measure[by]);
    this.order = order;
    this.box.style.setProperty("--columns", this.columns);
    this.box.replaceChildren(...order.map(({ button }) => button));
    const same = left && order.find(({ layer, head }) => layer === left.layer && head === left.head);
    same?.button.focus({ preventScroll: true }); // who is among the heads stays there
  }

  mark(layer, head) {
    for (const one of this.heads) {
      const chosen = one.layer === layer && one.head === head;
      one.button.setAttribute("aria-checked", chosen);
      one.button.tabIndex = chosen ? 0 : -1;
    }
  }

  #press(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[event.key];
    const from = this.order?.findIndex(({ button }) => button === document.activeElement);
    const next = this.order?.[from + step];
    if (!step || !next) return;
    event.preventDefault();
    next.button.focus();
    this.choose(next.layer, next.head);
  }
}
