// Where the time of the last request went, by the server's own Server-Timing, and how long the last ones took.

import { draw, make } from "./elements.js";

const STAGES = ["decode", "queue", "run", "encode", "network"];
const KEPT = 50;

export class Latency {
  constructor(box) {
    Object.assign(this, { box, history: [] });
  }

  /** @param {object} timings ms by stage */
  add(timings, t) {
    this.timings = timings;
    this.history.push(STAGES.reduce((sum, stage) => sum + (timings[stage] ?? 0), 0));
    this.history.splice(0, this.history.length - KEPT);
    this.show(t);
  }

  show(t) {
    if (!this.timings) return;
    const total = this.history.at(-1);
    const parts = STAGES.filter((stage) => this.timings[stage] !== undefined);
    const bar = make("span", { class: "stages", "aria-hidden": "true" });
    const list = make("ul");
    for (const stage of parts) {
      const name = stage === "run" ? "onnxruntime" : t(stage);
      const part = make("span", { class: `stage ${stage}` });
      part.style.flexGrow = this.timings[stage] / total;
      bar.append(part);
      list.append(make("li", { class: stage }, t("milliseconds", { stage: name, ms: this.timings[stage].toFixed(1) })));
    }
    const said = t("history", { count: this.history.length, ms: total.toFixed(1) });
    this.box.setAttribute("aria-label", t("latency"));
    this.box.replaceChildren(bar, list, this.#sparkline(), make("span", { class: "muted" }, said));
  }

  #sparkline() {
    const most = Math.max(...this.history);
    const points = this.history.map((ms, i) => `${(i * 100) / KEPT},${20 - (18 * ms) / most}`).join(" ");
    return draw("svg", { viewBox: "0 0 100 20", class: "sparkline", "aria-hidden": "true" }, draw("polyline", { points }));
  }
}
