// What the model is given: a sentence, or for a model without text a tensor, from a file or random by seed.

import { Refusal } from "./api.js";
import { $, make } from "./elements.js";
import { read } from "./safetensors.js";
import { SENTENCE } from "./state.js";

const PRESETS = [
  SENTENCE,
  "The trophy did not fit in the suitcase because it was too big.",
  "She opened the letter slowly, read it twice, and put it back into the drawer without a word.",
];
const ROWS = [8, 32, 128];

export class Input {
  /**
   * @param {object} state text and rows are read and written
   * @param {() => void} run called when a preset or a file is chosen
   */
  constructor(state, run) {
    Object.assign(this, { state, run });
    $("text").value = state.text; // now, and not under the hands of who types while the models are asked for
    $("file").addEventListener("change", async () => this.#read($("file").files[0]));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      if (!this.text) this.#read(event.dataTransfer.files[0]);
    });
    $("text").addEventListener("input", () => (state.text = $("text").value));
    $("text").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      $("ask").requestSubmit();
    });
  }

  /** For a model, as /v1 describes it. */
  show({ accepts, hidden_size: hidden }, t) {
    Object.assign(this, { hidden, t, text: accepts.includes("text") });
    $("text").hidden = !this.text;
    $("tensor").hidden = this.text;
    if ($("text").value !== this.state.text) $("text").value = this.state.text;
    if (this.file?.shape[2] !== hidden) this.file = undefined;
    const presets = this.text
      ? PRESETS.map((text) => this.#preset(text, () => this.#write(text)))
      : ROWS.map((count) => this.#preset(t("rows", { count }), () => this.#take(count)));
    $("presets").replaceChildren(...(this.text ? [] : [make("span", { class: "muted" }, t("noText"))]), ...presets);
    this.#name();
  }

  /** {text}, or {shape: [1, sequence, hidden], data}. */
  get value() {
    if (this.text) return { text: this.state.text };
    return this.file ?? { shape: [1, this.state.rows, this.hidden], data: randomNormal(this.state.rows * this.hidden) };
  }

  #preset(label, take) {
    const button = make("button", { type: "button", class: "preset" }, label);
    button.addEventListener("click", () => {
      take();
      this.run();
    });
    return button;
  }

  #write(text) {
    this.state.text = $("text").value = text;
  }

  #take(rows) {
    this.file = undefined;
    this.state.rows = rows;
    this.#name();
  }

  async #read(file) {
    if (!file) return;
    const tensor = await tensorOf(file, this.hidden).catch(({ message }) => {
      throw new Refusal(message);
    });
    if (tensor?.shape[2] !== this.hidden) throw new Refusal(this.t("notANumberGrid", { hidden: this.hidden }));
    this.file = tensor;
    this.name = file.name;
    this.#name();
    this.run();
  }

  #name() {
    const { file, name, state, t } = this;
    $("tensor-name").textContent = file ? t("fileRows", { name, count: file.shape[1] }) : t("rows", { count: state.rows });
  }
}

const tensorOf = async (file, hidden) =>
  file.name.endsWith(".json") ? ofJson(await file.text()) : ofSafetensors(await file.arrayBuffer(), hidden);

/** The first sequence of hidden_states, else of a tensor that could be them. */
function ofSafetensors(buffer, hidden) {
  const { tensors } = read(buffer);
  const found = tensors.hidden_states ?? Object.values(tensors).find(({ shape }) => shape.at(-1) === hidden);
  if (!found || found.shape.length < 2) return undefined;
  const [rows, width] = found.shape.slice(-2);
  return { shape: [1, rows, width], data: found.data.slice(0, rows * width) };
}

/** The same of JSON: {"hidden_states": …} or the numbers alone, [sequence][hidden] or with a batch around. */
function ofJson(text) {
  const value = JSON.parse(text);
  const lists = value.hidden_states ?? value;
  const rows = Array.isArray(lists?.[0]?.[0]) ? lists[0] : lists;
  if (!Array.isArray(rows?.[0])) return undefined;
  return { shape: [1, rows.length, rows[0].length], data: Float32Array.from(rows.flat()) };
}

/** Normal numbers, the same on every visit: mulberry32 under the Box-Muller transform. */
function randomNormal(count) {
  let seed = 7;
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}
