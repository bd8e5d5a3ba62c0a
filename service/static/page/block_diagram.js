// The block as its tensors, by the flow of data: shape and length of each at the chosen token, each to be looked into.

import { draw, make } from "./elements.js";

// Between the two inputs of a sum runs the residual stream, which both parts read and add to.
const PARTS = [
  { probes: ["layer_input"] },
  {
    name: "attention",
    probes: ["attention_input", "query_unrotated", "key_unrotated", "query", "key", "value", "attention_scores", "attention_weights", "context", "attention_output"],
  },
  { probes: ["resid_mid"] },
  { name: "feedForward", probes: ["ffn_input", "ffn_pre_activation", "ffn_post_activation", "ffn_output"] },
  { probes: ["resid_post", "layer_output"] },
];
const SIGNS = { query: "W_Q", key: "W_K", value: "W_V", attention_scores: "q·k/√d", attention_weights: "softmax", context: "A·v", attention_output: "W_O" };
Object.assign(SIGNS, { resid_mid: "+", ffn_pre_activation: "W₁", ffn_post_activation: "σ", ffn_output: "W₂", resid_post: "+" });

/** What is asked of a probe for its box: its rows' lengths; of scores, whose masked cells are the least float, the largest. */
const measureOf = (address) => (address.endsWith("attention_scores") ? `${address}|max(key)` : `${address}|norm`);

export class BlockDiagram {
  constructor(box) {
    this.hint = make("p", { class: "hint" });
    this.flow = make("div", { class: "flow" });
    this.detail = make("div", { class: "detail" });
    this.detail.setAttribute("aria-live", "polite");
    box.replaceChildren(this.hint, this.detail, this.flow);
  }

  /**
   * Shows a layer; asks for its measures only if they are not here.
   * @param {object[]} outputs of the model's description: {address, axes, shape}
   * @param {{ask: Function, layer: number, head: number, query: number, names: string[], run: object}} at the scene
   */
  async show(outputs, at, t) {
    Object.assign(this, { at, t });
    const inside = outputs.filter(({ address }) => address.startsWith(`layers.${at.layer}.`));
    const own = inside.length ? inside : outputs; // a module may give nothing but its answer
    this.probes = new Map(own.map((output) => [output.address.split(".").at(-1), output]));
    if (this.run !== at.run || this.layer !== at.layer) {
      Object.assign(this, { run: at.run, layer: at.layer, measures: undefined });
      this.#draw();
      const { tensors } = await at.ask(own.map(({ address }) => measureOf(address)));
      if (this.run !== at.run || this.layer !== at.layer) return;
      this.measures = tensors;
    }
    this.#draw();
    this.#look();
  }

  #draw() {
    const { at, t, probes: byName } = this;
    this.hint.textContent = t("blockHint", { layer: at.layer, token: at.names[at.query] });
    const known = PARTS.map(({ name, probes }) => ({ name, probes: probes.filter((probe) => byName.has(probe)) }));
    const others = [...byName.keys()].filter((probe) => !PARTS.some(({ probes }) => probes.includes(probe)));
    const parts = [...known, { probes: others }].filter(({ probes }) => probes.length);
    this.flow.replaceChildren(
      ...parts.map(({ name, probes }) => {
        const boxes = probes.map((probe) => this.#box(probe, byName.get(probe)));
        return make("div", { class: name ? "part" : "stream" }, ...(name ? [make("h3", {}, t(name))] : []), ...boxes);
      }),
    );
  }

  #box(probe, output) {
    const size = this.at.names.length;
    const shape = output.shape.map((n) => (n < 0 ? size : n)).join(" × ");
    const button = make(
      "button",
      { type: "button", class: "probe", dataset: { probe } },
      make("span", { class: "sign" }, SIGNS[probe] ?? ""),
      make("span", { class: "name" }, probe),
      make("span", { class: "shape" }, shape),
      make("span", { class: "norm" }, this.#measure(output)),
    );
    button.setAttribute("aria-expanded", this.open === probe);
    button.addEventListener("click", () => {
      this.open = this.open === probe ? undefined : probe;
      for (const one of this.flow.querySelectorAll(".probe")) one.setAttribute("aria-expanded", this.open === one.dataset.probe);
      this.#look();
    });
    return button;
  }

  /** The length of the whole vector at the token; where it has heads first, of the chosen head's row. */
  #measure({ address, axes }) {
    const measure = this.measures?.[measureOf(address)];
    if (!measure) return "";
    const { shape, data } = measure;
    const { query, head } = this.at;
    if (axes[0] !== "sequence") {
      const row = data[Math.min(head, shape[0] - 1) * (shape[1] ?? 1) + query];
      return row === undefined ? "" : `${address.endsWith("scores") ? "≤ " : ""}${number(row)}`;
    }
    const width = shape[1] ?? 1;
    return number(Math.hypot(...data.subarray(query * width, (query + 1) * width)));
  }

  /** The values of the open probe at the token. */
  async #look() {
    const { at, t, probes, open } = this;
    if (!probes.has(open)) return this.detail.replaceChildren();
    const output = probes.get(open);
    const cut = output.axes[0] === "sequence" ? `[${at.query}]` : `[${at.head}, ${at.query}]`;
    const address = output.address + cut;
    const { tensors } = await at.ask([address]);
    if (this.at !== at || this.open !== open) return;
    const { data, shape } = tensors[address];
    const facts = [["least", extreme(data, Math.min)], ["mean", data.reduce((sum, x) => sum + x, 0) / data.length], ["most", extreme(data, Math.max)]];
    const list = make("dl", {}, ...facts.flatMap(([key, value]) => [make("dt", {}, t(key)), make("dd", {}, number(value))]));
    list.append(make("dt", {}, t("first")), make("dd", {}, Array.from(data.slice(0, 6), number).join("  ")));
    const name = make("h3", {}, t("of", { address, token: at.names[at.query] }), make("span", { class: "muted" }, ` ${shape.join(" × ")}`));
    this.detail.replaceChildren(name, histogram(data), list);
  }
}

const extreme = (data, choose) => data.reduce((a, b) => choose(a, b));
const number = (x) => (Math.abs(x) >= 1e5 || (x && Math.abs(x) < 1e-3) ? x.toExponential(2) : String(Number(x.toPrecision(4))));

/** How many values lie where, as a picture. */
function histogram(data) {
  const [least, most] = [extreme(data, Math.min), extreme(data, Math.max)];
  const counts = new Array(32).fill(0);
  for (const x of data) counts[Math.min(31, Math.floor((32 * (x - least)) / (most - least || 1)))] += 1;
  const top = Math.max(...counts);
  const bars = counts.map((n, i) => draw("rect", { x: i * 8, y: 48 - (48 * n) / top, width: 7, height: (48 * n) / top }));
  return draw("svg", { viewBox: "0 0 256 48", class: "histogram", "aria-hidden": "true" }, ...bars);
}
