// What one token looks at: lines from it to its keys, and the same as a list of percentages, which is also the text
// alternative of every picture of a map.

import { draw, make } from "./elements.js";

const ROW = 19; // px
const LINES = 24; // tokens a column; of longer sentences only the strongest keys, in their order
const WIDTH = 288;
const [LEFT, RIGHT] = [100, 188];

/** The keys of a row, the strongest first. */
export const strongest = (row, shown) => [...shown].sort((a, b) => row[b] - row[a] || a - b);

export class Arcs {
  /** @param {{pick: (query: number) => void, hover: (query: number | undefined) => void}} on what a person does */
  constructor(box, on) {
    this.on = on;
    this.picture = draw("svg", { class: "arcs", "aria-hidden": "true" });
    this.heading = make("h3");
    this.list = make("ol", { class: "strongest" });
    this.all = make("button", { type: "button", class: "link" });
    this.all.addEventListener("click", () => {
      this.whole = !this.whole;
      this.show(...this.last);
    });
    box.replaceChildren(this.heading, this.list, this.all, this.picture);
  }

  /**
   * @param {Float32Array} map [query, key]
   * @param {string[]} names
   * @param {number[]} shown positions
   * @param {number} query whose lines are drawn
   * @param {(key: string, values?: object) => string} t the words
   */
  show(map, names, shown, query, t) {
    this.last = [map, names, shown, query, t];
    const size = names.length;
    const row = map.subarray(query * size, (query + 1) * size);
    const keys = strongest(row, shown);
    this.heading.textContent = t("looksAt", { token: names[query] });
    this.all.textContent = t(this.whole ? "fewer" : "all", { count: keys.length });
    this.all.hidden = keys.length <= 5;
    this.list.replaceChildren(...keys.slice(0, this.whole ? keys.length : 5).map((key) => entry(names[key], row[key])));
    const few = shown.length <= LINES;
    const right = few ? shown : keys.slice(0, LINES).sort((a, b) => a - b);
    this.#lines(row, names, few ? shown : [query], right, query);
  }

  #lines(row, names, left, right, query) {
    const height = (Math.max(left.length, right.length) + 0.5) * ROW;
    this.picture.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    const y = (column, position) => (column.indexOf(position) + 0.75) * ROW + (column.length === 1 ? (height - 2 * ROW) / 2 : 0);
    const lines = right.map((key) =>
      draw("path", {
        d: `M${LEFT + 6} ${y(left, query)}C${LEFT + 45} ${y(left, query)} ${RIGHT - 45} ${y(right, key)} ${RIGHT - 6} ${y(right, key)}`,
        class: "arc",
        "stroke-opacity": Math.sqrt(row[key]).toFixed(3),
        "stroke-width": (1 + 5 * row[key]).toFixed(2),
      }),
    );
    const queries = left.map((position) => this.#name(names[position], LEFT, y(left, position), "end", position, position === query));
    const keys = right.map((position) => this.#name(names[position], RIGHT, y(right, position), "start", position, false, row[position]));
    this.picture.replaceChildren(...(left.includes(query) ? lines : []), ...queries, ...keys);
  }

  #name(name, x, y, anchor, position, picked, weight) {
    const text = draw("text", { x, y: y + 4, "text-anchor": anchor, class: picked ? "picked" : "" }, name.length > 13 ? `${name.slice(0, 12)}…` : name);
    if (weight !== undefined) text.style.opacity = 0.55 + 0.45 * Math.min(1, weight * 3);
    if (weight !== undefined) return text;
    text.addEventListener("pointerenter", () => this.on.hover(position));
    text.addEventListener("pointerleave", () => this.on.hover(undefined));
    text.addEventListener("click", () => this.on.pick(position));
    return text;
  }
}

function entry(name, weight) {
  const bar = make("span", { class: "bar" });
  bar.style.width = `${(weight * 100).toFixed(2)}%`;
  const share = make("span", { class: "share", title: String(weight) }, `${(weight * 100).toFixed(1)} %`);
  return make("li", {}, make("span", { class: "name" }, name), make("span", { class: "track" }, bar), share);
}
