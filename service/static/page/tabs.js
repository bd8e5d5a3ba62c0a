// The panels at the side: one is open, or all where there is room for them.

import { $ } from "./elements.js";

const PANELS = ["arcs", "block", "what-if"];

/** @param {(name: string) => void} open called when a person opens a panel */
export function listen(open) {
  for (const name of PANELS) $(`tab-${name}`).addEventListener("click", () => open(name));
  $("tabs").addEventListener("keydown", ({ key }) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const from = PANELS.findIndex((name) => document.activeElement === $(`tab-${name}`));
    if (!step || from < 0) return;
    const name = PANELS[(from + step + PANELS.length) % PANELS.length];
    open(name);
    $(`tab-${name}`).focus();
  });
}

/** @param {string} open panel @param {string[]} offered what the model has something to show in */
export function mark(open, offered) {
  for (const name of PANELS) {
    $(`tab-${name}`).hidden = $(`panel-${name}`).hidden = !offered.includes(name);
    $(`tab-${name}`).setAttribute("aria-selected", name === open);
    $(`tab-${name}`).tabIndex = name === open ? 0 : -1;
    $(`panel-${name}`).classList.toggle("closed", name !== open);
  }
}

/** Whether a panel can be seen: open, or one of all, where style.css has no use for tabs. */
export const isShown = (name) =>
  !$(`panel-${name}`).classList.contains("closed") || getComputedStyle($("tabs")).display === "none";
