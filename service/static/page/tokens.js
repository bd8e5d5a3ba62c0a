// The tokens of the sentence, each coloured by what the chosen query gives it. One is chosen; arrows choose too.

import { css, ink } from "./colours.js";
import { make } from "./elements.js";

export class Tokens {
  /** @param {{pick: (query: number) => void, hover: (query: number | undefined) => void}} on what a person does */
  constructor(box, on) {
    Object.assign(this, { box, on, buttons: [] });
    box.addEventListener("keydown", (event) => this.#press(event));
  }

  show(names) {
    this.buttons = names.map((name, i) => {
      const button = make("button", { type: "button", class: "token" }, name);
      button.addEventListener("click", () => this.on.pick(i));
      button.addEventListener("pointerenter", () => this.on.hover(i));
      button.addEventListener("pointerleave", () => this.on.hover(undefined));
      return button;
    });
    this.#stop(0);
    this.box.replaceChildren(...this.buttons.map((button) => make("li", {}, button)));
  }

  /** One stop of the Tab key for all of them, which may be hundreds; arrows go from there. */
  #stop(place) {
    this.buttons.forEach((button, i) => (button.tabIndex = i === place ? 0 : -1));
  }

  #press(event) {
    const from = this.buttons.indexOf(document.activeElement);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: this.buttons.length - 1 }[event.key];
    if (from < 0 || !this.buttons[to]) return;
    event.preventDefault();
    this.#stop(to);
    this.on.pick(to);
    this.buttons[to].focus();
  }

  /**
   * @param {Float32Array} row what the query gives to each key
   * @param {number} query
   */
  colour(row, query) {
    const most = Math.max(1e-9, ...row);
    this.#stop(query);
    this.buttons.forEach((button, key) => {
      button.style.background = css(row[key] / most);
      button.style.color = ink(row[key] / most);
      button.setAttribute("aria-pressed", key === query);
      button.title = `${(row[key] * 100).toFixed(1)} %`;
    });
  }
}
