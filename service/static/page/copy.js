// The request behind the picture, to be pasted elsewhere: curl, httpx, for tensors tritonclient too, and the page's link.

import { hasKey, request } from "./api.js";
import { make, say } from "./elements.js";

const FILE = "request.safetensors";
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) => JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
const url = (model) => new URL(`v1/models/${model}/forward`, document.baseURI).href;

/** A shell's command; its answer is JSON. */
export function curl({ model, input, outputs, interventions }) {
  const key = hasKey() ? ' -H "Authorization: Bearer $GLASSBLOCK_KEY"' : "";
  const body =
    "text" in input
      ? `--json ${quote(request(input, outputs, interventions).body)}`
      : `-H 'Content-Type: application/x-safetensors' -H 'Accept: application/json' --data-binary @${FILE}`;
  return `curl -s${key} ${body} ${url(model)}`;
}

/** A Python program that prints the answer's tensors. */
export function httpx({ model, input, outputs, interventions }) {
  const key = hasKey() ? ', "Authorization": f"Bearer {os.environ[\'GLASSBLOCK_KEY\']}"' : "";
  const [what, type] =
    "text" in input
      ? [`json.loads(${python(request(input, outputs, interventions).body)})`, ""]
      : [`open("${FILE}", "rb").read()`, '"Content-Type": "application/x-safetensors", '];
  const headers = `{${type}"Accept": "application/json"${key}}`;
  const argument = "text" in input ? "json" : "content";
  return `import json, os
import httpx

answer = httpx.post(${python(url(model))}, ${argument}=${what}, headers=${headers}, timeout=60)
answer.raise_for_status()
print(answer.json()["outputs"])
`;
}

/** A Python program for the Open Inference Protocol's client. */
export function triton({ model, outputs, interventions }) {
  const changes = Object.entries(interventions ?? {}).map(
    ([address, { scale }]) => `change = triton.InferInput(${python(`${address}.scale`)}, [1], "FP32")
change.set_data_from_numpy(np.array([${scale}], np.float32))
inputs.append(change)
`,
  );
  const names = outputs.map((name) => `triton.InferRequestedOutput(${python(name)})`).join(", ");
  return `import numpy as np
import tritonclient.http as triton
from safetensors.numpy import load_file

states = load_file("${FILE}")["hidden_states"]
inputs = [triton.InferInput("hidden_states", states.shape, "FP32")]
inputs[0].set_data_from_numpy(states)
${changes.join("")}client = triton.InferenceServerClient(${python(new URL(document.baseURI).host)})
answer = client.infer(${python(`${model}.probes`)}, inputs, outputs=[${names}])
print(answer.as_numpy(${python(outputs[0])}))
`;
}

/** @param {() => object} what the request as it stands: {model, input, outputs, interventions} */
export function showCopy(box, what, t) {
  const copier = (name, write) => {
    const button = make("button", { type: "button", dataset: { copy: name } }, name === "link" ? t("link") : name);
    button.addEventListener("click", async () => {
      await toClipboard(write());
      button.classList.add("done");
      say(t("copied"));
      setTimeout(() => button.classList.remove("done"), 1500);
    });
    return button;
  };
  const tensor = !("text" in what().input);
  const save = make("button", { type: "button", class: "link" }, t("saveRequest"));
  save.addEventListener("click", () => saveFile(request(what().input, what().outputs, what().interventions).body));
  box.setAttribute("aria-label", t("copyAs"));
  box.replaceChildren(
    make("span", { class: "muted" }, t("copyAs")),
    copier("curl", () => curl(what())),
    copier("httpx", () => httpx(what())),
    ...(tensor ? [copier("tritonclient", () => triton(what())), save] : []),
    copier("link", () => location.href),
  );
}

/** Over plain HTTP from another machine browsers have no clipboard for scripts; a selection can still be copied. */
async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text, class: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function saveFile(bytes) {
  const href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  make("a", { href, download: FILE }).click();
  URL.revokeObjectURL(href);
}
