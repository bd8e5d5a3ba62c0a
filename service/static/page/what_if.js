// What if a head were weaker, or nobody could look at a token? The run as it is beside the run with the change.

import { strongest } from "./arcs.js";
import { make, say } from "./elements.js";
import { drawSmall } from "./heatmap.js";

const LONGEST_LIST = 6;

/** Whether a head's part can be changed: a module of somebody's own may have no such tensor. */
export const canChange = ({ outputs }) => outputs.some(({ address }) => address === "layers.0.context");

/** {address: {scale: factor}} of a state's changes; undefined if there is none. */
export function interventionsOf({ scale, cut }) {
  const changes = scalesOf(scale).map(([head, factor]) => {
    const [layer, number] = head.split(".");
    return [`layers.${layer}.context[:, ${number}]`, { scale: factor }];
  });
  if (cut >= 0) changes.push([`layers.*.attention_weights[:, :, ${cut}]`, { scale: 0 }]);
  return changes.length ? Object.fromEntries(changes) : undefined;
}

/** "5.11:0,4.3:0.5" as [["5.11", 0], ["4.3", 0.5]]; what is no head and number is left out. */
const scalesOf = (text) =>
  [...text.matchAll(/(\d+\.\d+):(\d+(?:\.\d+)?)/g)].map(([, head, factor]) => [head, Number(factor)]);

export class WhatIf {
  /**
   * @param {{change: (patch: object) => void, choose: (layer: number, head: number) => void}} on what a person does
   */
  constructor(box, on) {
    Object.assign(this, { box, on });
    this.factor = make("input", { type: "range", min: "0", max: "2", step: "0.1", id: "factor" });
    this.factor.addEventListener("input", () => this.#say());
    this.factor.addEventListener("change", () => this.#scale(Number(this.factor.value)));
    this.said = make("output", { htmlFor: "factor" });
    this.factorName = make("label", { htmlFor: "factor" });
    this.remove = make("button", { type: "button", id: "remove-head" });
    this.remove.addEventListener("click", () => this.#scale(0));
    this.cut = make("select", { id: "cut" });
    this.cut.addEventListener("change", () => on.change({ cut: Number(this.cut.value) }));
    this.cutName = make("label", { htmlFor: "cut" });
    this.undo = make("button", { type: "button", id: "undo" });
    this.undo.addEventListener("click", () => on.change({ scale: "", cut: -1 }));
    this.hint = make("p", { class: "hint" });
    this.result = make("div", { id: "moved" });
    const head = make("div", { class: "change" }, this.factorName, this.factor, this.said, this.remove);
    const key = make("div", { class: "change" }, this.cutName, this.cut, this.undo);
    this.scaled = make("div", { class: "changes" });
    this.parts = [this.hint, head, key, this.scaled, this.result];
  }

  /** @param {{scene: object, state: object, layers: number}} at */
  async show(at, t) {
    Object.assign(this, { at, t });
    if (!this.box.firstChild) this.box.append(...this.parts); // not before there is something to change
    this.#controls();
    const { scene, state } = at;
    const interventions = interventionsOf(state);
    if (!interventions) return this.#clear();
    const wanted = JSON.stringify([interventions, scene.maps.fits(at.layers) || [scene.layer, scene.head]]);
    if (this.wanted !== wanted || this.run !== scene.run) {
      Object.assign(this, { wanted, run: scene.run, changed: undefined });
      const changed = await this.#compare(interventions);
      if (this.wanted !== wanted || this.run !== scene.run) return;
      this.changed = changed;
      say(t("moved"));
    }
    if (this.changed) this.#draw();
  }

  #clear() {
    Object.assign(this, { wanted: undefined, changed: undefined });
    this.result.replaceChildren();
  }

  #controls() {
    const { t } = this;
    const { scene, state } = this.at;
    const factor = new Map(scalesOf(state.scale)).get(`${scene.layer}.${scene.head}`) ?? 1;
    this.hint.textContent = t("whatIfHint");
    this.factorName.textContent = t("head", scene);
    this.factor.value = factor;
    this.#say();
    this.remove.textContent = t("remove");
    this.cutName.textContent = t("nobody");
    this.undo.textContent = t("undo");
    this.undo.hidden = !interventionsOf(state);
    const names = scene.names.map((name, i) => make("option", { value: i }, `${i} ${name}`));
    this.cut.replaceChildren(make("option", { value: -1 }, "—"), ...names);
    this.cut.value = state.cut < scene.size ? state.cut : -1;
    this.scaled.replaceChildren(...scalesOf(state.scale).map(([name, scale]) => this.#scaled(name, scale)));
  }

  /** A head that has been changed, to go back to. */
  #scaled(name, scale) {
    const button = make("button", { type: "button" }, `${name} × ${scale.toFixed(1)}`);
    button.addEventListener("click", () => this.on.choose(...name.split(".").map(Number)));
    return button;
  }

  #say() {
    this.said.textContent = `× ${Number(this.factor.value).toFixed(1)}`;
  }

  #scale(factor) {
    const { scene, state } = this.at;
    const scales = new Map(scalesOf(state.scale));
    scales.set(`${scene.layer}.${scene.head}`, factor);
    if (factor === 1) scales.delete(`${scene.layer}.${scene.head}`);
    this.on.change({ scale: [...scales].map((pair) => pair.join(":")).join(",") });
  }

  /** The output and the maps, with the change and without: of every head if they are few enough, else of the chosen. */
  async #compare(interventions) {
    const { scene, layers } = this.at;
    const whole = scene.maps.fits(layers);
    const chosen = `layers.${scene.layer}.attention_weights[${scene.head}]`;
    const addresses = whole ? Array.from({ length: layers }, (_, l) => `layers.${l}.attention_weights`) : [chosen];
    const after = await scene.ask(["block_output", ...addresses], interventions);
    scene.output ??= (await scene.ask(["block_output"])).tensors.block_output;
    if (whole) for (let l = 0; l < layers; l++) await scene.maps.fetchLayer(l);
    const cells = scene.size ** 2;
    const map = (layer, head) =>
      whole ? after.tensors[addresses[layer]].data.subarray(head * cells, (head + 1) * cells) : after.tensors[chosen].data;
    const places = whole
      ? addresses.flatMap((_, layer) => Array.from({ length: scene.maps.heads }, (__, head) => ({ layer, head })))
      : [{ layer: scene.layer, head: scene.head }];
    const heads = places.map(({ layer, head }) => ({ layer, head, moved: movement(scene.maps.get(layer, head), map(layer, head), scene.size) }));
    return { map, heads, rows: changes(scene.output, after.tensors.block_output) };
  }

  #draw() {
    const { t, changed } = this;
    const { scene } = this.at;
    const { rows, heads, map } = changed;
    const tokens = strongest(rows, [...rows.keys()]).slice(0, LONGEST_LIST);
    const most = Math.max(1e-9, rows[tokens[0]]);
    const output = tokens.map((i) => bar(scene.names[i], rows[i], most));
    const moved = heads.filter(({ moved: share }) => share > 0).sort((a, b) => b.moved - a.moved).slice(0, LONGEST_LIST);
    const list = moved.map(({ layer, head, moved: share }) => {
      const button = make("button", { type: "button", class: "link" }, `${layer}.${head}`);
      button.addEventListener("click", () => this.on.choose(layer, head));
      return bar(button, share, moved[0].moved);
    });
    this.result.replaceChildren(
      make("h3", {}, t("outputMoves")),
      make("ol", { class: "strongest" }, ...output),
      ...(list.length ? [make("h3", {}, t("headsMove")), make("ol", { class: "strongest" }, ...list)] : []),
      make("h3", {}, t("head", scene)),
      sideBySide(scene.maps.get(scene.layer, scene.head), map(scene.layer, scene.head), scene.size, t),
    );
  }
}

/** Of each position ‖after − before‖ / ‖before‖. */
function changes({ shape: [rows, width], data: before }, { data: after }) {
  return Float32Array.from({ length: rows }, (_, row) => {
    let [moved, length] = [0, 0];
    for (let i = row * width; i < (row + 1) * width; i++) {
      moved += (after[i] - before[i]) ** 2;
      length += before[i] ** 2;
    }
    return Math.sqrt(moved / (length || 1));
  });
}

/** The share of its attention that a query of this head moves elsewhere, on average. */
function movement(before, after, size) {
  let sum = 0;
  for (let i = 0; i < before.length; i++) sum += Math.abs(after[i] - before[i]);
  return sum / 2 / size;
}

function bar(name, share, most) {
  const part = make("span", { class: "bar" });
  part.style.width = `${(100 * share) / most}%`;
  const said = make("span", { class: "share", title: String(share) }, `${(share * 100).toFixed(1)} %`);
  return make("li", {}, make("span", { class: "name" }, name), make("span", { class: "track" }, part), said);
}

function sideBySide(before, after, size, t) {
  const most = Math.max(1e-9, ...[before, after].map((map) => map.reduce((a, b) => Math.max(a, b), 0)));
  const difference = after.map((weight, i) => weight - before[i]);
  const widest = Math.max(1e-9, difference.reduce((a, b) => Math.max(a, Math.abs(b)), 0));
  const picture = (name, map, scale) => {
    const canvas = make("canvas");
    drawSmall(canvas, map, size, scale);
    return make("figure", {}, canvas, make("figcaption", {}, name));
  };
  const last = picture(t("difference", { most: widest.toFixed(3) }), difference, widest);
  return make("div", { class: "sides" }, picture(t("before"), before, most), picture(t("after"), after, most), last);
}
