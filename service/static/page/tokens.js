// The tokens of the sentence, each coloured by what the chosen query gives it.

import { css, ink } from "./colours.js";
import { make } from "./elements.js";

export class Tokens {
  /** @param {{pick: (query: number) => void, hover: (query: number | undefined) => void}} on what a person does */
  constructor(box, on) {
    Object.assign(this, { box, on, buttons: [] });
  }

  show(names) {
    this.buttons = names.map((name, i) => {
      const button = make("button", { type: "button", class: "token" }, name);
      button.addEventListener("click", () => this.on.pick(i));
      button.addEventListener("pointerenter", () => this.on.hover(i));
      button.addEventListener("pointerleave", () => this.on.hover(undefined));
      return button;
    });
    this.box.replaceChildren(...this.buttons.map((button) => make("li", {}, button)));
  }

  /**
   * @param {Float32Array} row what the query gives to each key
   * @param {number} query
   */
  colour(row, query) {
    const most = Math.max(1e-9, ...row);
    this.buttons.forEach((button, key) => {
      button.style.background = css(row[key] / most);
      button.style.color = ink(row[key] / most);
      button.setAttribute("aria-pressed", key === query);
      button.title = `${(row[key] * 100).toFixed(1)} %`;
    });
  }
}
