// Six steps from a token's vector to an experiment, with the formulas and the numbers of the sentence on the page.

import { strongest } from "./arcs.js";
import { $, make } from "./elements.js";

// What a step is about: its words' key, formula (by the model's config), the place it points at, the panel to open, and
// the tensors without which it says nothing of the model.
const STEPS = [
  { key: "tourQuery", formula: () => "Q = X W_Q    K = X W_K    V = X W_V", place: "side", panel: "block", needs: ["query", "key", "value"] },
  { key: "tourScores", formula: ({ mask }) => `A = softmax(Q Kᵀ / √d_k${mask === "causal" ? " + M" : ""})`, place: "map", needs: ["attention_weights"] },
  { key: "tourHeads", formula: () => "MultiHead(X) = [A₁V₁ … A_hV_h] W_O", place: "heads", needs: ["context"] },
  { key: "tourFeedForward", formula: ({ hidden_act: act }) => `FFN(x) = ${act ?? "σ"}(x W₁ + b₁) W₂ + b₂`, place: "side", panel: "block", needs: ["ffn_pre_activation"] },
  { key: "tourResidual", formula: ({ placement }) => (placement === "pre" ? "x + Sublayer(LayerNorm(x))" : "LayerNorm(x + Sublayer(x))"), place: "side", panel: "block", needs: ["resid_mid"] },
  { key: "tourAblation", formula: () => "headᵢ ← s · AᵢVᵢ    s = 0", place: "side", panel: "what-if", needs: ["context"] },
];

export class Tour {
  /**
   * @param {() => {scene: object, description: object}} what is on the page
   * @param {(panel: string) => void} openPanel
   */
  constructor(box, what, openPanel) {
    Object.assign(this, { box, what, openPanel, step: -1 });
    box.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") this.end();
      if (key === "ArrowRight") this.go(this.step + 1);
      if (key === "ArrowLeft") this.go(this.step - 1);
    });
  }

  /** Those that there is something to show for. */
  get steps() {
    const { outputs } = this.what().description;
    return STEPS.filter(({ needs }) => needs.every((name) => outputs.some(({ address }) => address === `layers.0.${name}`)));
  }

  start(t) {
    this.t = t;
    this.from = document.activeElement;
    this.go(0);
  }

  end() {
    this.step = -1;
    this.box.hidden = true;
    this.#point(undefined);
    this.from?.focus();
  }

  /** The same step in other words, or about another sentence. */
  refresh(t) {
    this.t = t;
    if (this.what().description) $("start-tour").hidden = !this.steps.length;
    if (this.step >= 0) this.#show();
  }

  go(step) {
    if (step < 0 || step >= this.steps.length) return step > 0 ? this.end() : undefined;
    this.step = step;
    const { panel, place } = this.steps[step];
    if (panel) this.openPanel(panel);
    this.#point(place);
    this.#show();
    this.box.classList.toggle("left", place === "side");
    $(place).scrollIntoView({ block: innerWidth < 760 ? "start" : "nearest" });
    this.box.querySelector(".main").focus({ preventScroll: true });
  }

  #point(place) {
    for (const card of document.querySelectorAll(".card")) card.classList.toggle("shown", card.id === place);
  }

  #show() {
    const { t, steps } = this;
    const step = Math.min(this.step, steps.length - 1); // another model may have fewer
    if (step < 0) return void this.end();
    const { key, formula } = steps[step];
    const { scene, description } = this.what();
    const atTheEnd = key === "tourAblation" && scene.layer === description.num_layers - 1;
    const config = description.config?.layers[scene.layer] ?? {};
    const go = (name, to, kind) => {
      const button = make("button", { type: "button", class: kind }, t(name));
      button.addEventListener("click", () => this.go(to));
      return button;
    };
    const close = make("button", { type: "button", class: "link" }, t("close"));
    close.addEventListener("click", () => this.end());
    const last = step === steps.length - 1;
    this.box.hidden = false;
    this.box.setAttribute("aria-label", t("tour"));
    this.box.replaceChildren(
      make("p", { class: "muted" }, t("stepOf", { step: step + 1, count: steps.length })),
      make("h2", {}, t(`${key}Name`)),
      make("p", { class: "formula" }, ...written(formula(config))),
      make("p", { class: "words" }, t(atTheEnd ? "tourAblationAtTheEnd" : key, numbers(scene, config, description))),
      make("div", { class: "steps" }, close, ...(step ? [go("back_", step - 1, "")] : []), go(last ? "finish" : "forward", step + 1, "main")),
    );
  }
}

/** A formula, what follows _ written lower. */
const written = (formula) => formula.split(/_(\w)/).map((part, i) => (i % 2 ? make("sub", {}, part) : part));

/** What the words name: of the chosen head and token. */
function numbers(scene, config, description) {
  const { names, query, size, layer, head, maps } = scene;
  const row = maps?.get(layer, head).subarray(query * size, (query + 1) * size);
  const [best] = row ? strongest(row, [...names.keys()]) : [query];
  return {
    token: names[query],
    best: names[best],
    share: ((row?.[best] ?? 0) * 100).toFixed(1),
    layer,
    head,
    heads: maps?.heads ?? 0,
    size,
    layers: description.num_layers,
    hidden: description.hidden_size,
    width: config.head_dim ?? "d_k",
    inner: config.intermediate_size ?? "F",
  };
}
