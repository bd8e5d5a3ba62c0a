// The request behind the picture, to be pasted elsewhere: curl, httpx, for tensors tritonclient too, and the page's link.

import { hasKey, request } from "./api.js";
import { make, say } from "./elements.js";

const TYPE = "application/x-safetensors";
const FILE = "request.safetensors";
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) => JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
const url = (model) => new URL(`v1/models/${model}/forward`, document.baseURI).href;

const bodyOf = ({ input, outputs, interventions }) => request(input, outputs, interventions).body;

/** A shell's command; its answer is JSON. */
export function curl(what) {
  const key = hasKey() ? ' -H "Authorization: Bearer $GLASSBLOCK_KEY"' : "";
  const data = "text" in what.input ? `--json ${quote(bodyOf(what))}` : `-H 'Content-Type: ${TYPE}' -H 'Accept: application/json' --data-binary @${FILE}`;
  return `curl -s${key} ${data} ${url(what.model)}`;
}

/** A Python program that prints the answer's tensors. */
export function httpx(what) {
  const key = hasKey() ? `, "Authorization": f"Bearer {os.environ['GLASSBLOCK_KEY']}"` : "";
  const [body, type] =
    "text" in what.input ? [`${python(bodyOf(what))}.encode()`, "application/json"] : [`open("${FILE}", "rb").read()`, TYPE];
  return `import os
import httpx

body = ${body}
headers = {"Content-Type": "${type}", "Accept": "application/json"${key}}
answer = httpx.post(${python(url(what.model))}, content=body, headers=headers, timeout=60)
answer.raise_for_status()
print(answer.json()["outputs"])
`;
}

/** A Python program for the Open Inference Protocol's client. */
export function triton(what) {
  const { input, outputs, interventions, model } = what;
  const changes = Object.entries(interventions ?? {}).map(
    ([address, { scale }]) => `inputs.append(triton.InferInput(${python(`${address}.scale`)}, [1], "FP32"))
inputs[-1].set_data_from_numpy(np.array([${scale}], np.float32))
`,
  );
  const names = outputs.map((name) => `triton.InferRequestedOutput(${python(name)})`).join(", ");
  const key = hasKey() ? `, headers={"Authorization": f"Bearer {os.environ['GLASSBLOCK_KEY']}"}` : "";
  return `import os
import numpy as np
import tritonclient.http as triton

states = np.fromfile("${FILE}", np.float32, offset=${bodyOf(what).length - input.data.byteLength}).reshape(${input.shape.join(", ")})
inputs = [triton.InferInput("hidden_states", states.shape, "FP32")]
inputs[0].set_data_from_numpy(states)
${changes.join("")}client = triton.InferenceServerClient(${python(new URL(document.baseURI).host)})
answer = client.infer(${python(`${model}.probes`)}, inputs, outputs=[${names}]${key})
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
  const save = make("button", { type: "button", class: "link" }, t("saveRequest", { file: FILE }));
  save.addEventListener("click", () => saveFile(bodyOf(what())));
  box.setAttribute("aria-label", t("copyAs"));
  box.replaceChildren(
    make("span", { class: "muted" }, t("copyAs")),
    copier("curl", () => curl(what())),
    copier("httpx", () => httpx(what())),
    ...(!("text" in what().input) ? [copier("tritonclient", () => triton(what())), save] : []),
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
  const href = URL.createObjectURL(new Blob([bytes], { type: TYPE }));
  make("a", { href, download: FILE }).click();
  URL.revokeObjectURL(href);
}
