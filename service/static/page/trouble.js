// What went wrong, in the server's own sentence; and a server that is gone, until it is back.

import { hasKey, isReady, Refusal, useKey } from "./api.js";
import { $, say } from "./elements.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;

/**
 * Shows every refusal that nobody else has dealt with.
 * @param {() => void} again called when the server is back, or a key is there
 * @param {() => (key: string) => string} t the words
 */
export function watch(again, t) {
  addEventListener("unhandledrejection", (event) => {
    const { reason } = event;
    if (!(reason instanceof Refusal)) return;
    event.preventDefault();
    document.body.classList.remove("running");
    if (reason.status === 0) return void wait(again, t);
    if (reason.status === 401) askForKey();
    if (reason.status === 401 && !hasKey()) return; // it is no mistake not to have given one yet
    $("error").textContent = reason.status === 401 ? t()("wrongKey") : reason.message;
    $("error").hidden = false;
  });
  $("key").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey($("key-value").value);
    $("key").hidden = true;
    again();
  });
}

export function clear() {
  $("error").hidden = true;
}

function askForKey() {
  $("key").hidden = false;
  $("key-value").focus();
}

let waiting = false;

async function wait(again, t) {
  if (waiting) return;
  waiting = true;
  $("gone").hidden = false;
  for (let ms = FIRST_WAIT_MS; !(await isReady()); ms = Math.min(2 * ms, LONGEST_WAIT_MS)) {
    await new Promise((resume) => setTimeout(resume, ms));
  }
  waiting = false;
  $("gone").hidden = true;
  say(t()("back"));
  again();
}
