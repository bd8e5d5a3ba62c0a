// One hue, ever darker (on dark: ever lighter): told apart without seeing colours, and in print.

const LIGHT = ["#f6f8fb", "#d3e3f2", "#9cc3e2", "#5596cb", "#2166ac", "#0a3468"];
const DARK = ["#171b21", "#173654", "#1f5c90", "#3d8fcb", "#8ec7ec", "#f2faff"];
// What is less than before, where a difference is shown.
const LIGHT_LESS = ["#f6f8fb", "#f5d3b8", "#e59a63", "#b85a1b", "#6d2e07"];
const DARK_LESS = ["#171b21", "#58301a", "#a3562a", "#e39a66", "#ffe9d9"];
const DECADES = 4; // of the log scale: from 0.0001 to 1
const dark = matchMedia("(prefers-color-scheme: dark)");

const channels = (hex) => [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16));

/** 256 colours as RGBA words of an ImageData, little-endian. */
function table(stops) {
  const colours = stops.map(channels);
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (colours.length - 1);
    const from = Math.min(Math.floor(place), colours.length - 2);
    const [r, g, b] = colours[from].map((value, c) => Math.round(value + (place - from) * (colours[from + 1][c] - value)));
    return (255 << 24) | (b << 16) | (g << 8) | r;
  });
}

const more = { light: table(LIGHT), dark: table(DARK) };
const less = { light: table(LIGHT_LESS), dark: table(DARK_LESS) };

let theme;
const follow = () => (theme = dark.matches ? "dark" : "light"); // asked once: a map has many cells
dark.addEventListener("change", follow);
follow();

/** Calls when colours are others; by then they are. */
export const onChange = (redraw) => dark.addEventListener("change", redraw);

/** A weight's place on the scale, 0 to 1. */
export const place = (weight, most, log) => (log ? Math.max(0, 1 + Math.log10(weight) / DECADES) : weight / most);

/** The colour of a place as a word of an ImageData; below 0: less than before. */
export function colour(value) {
  const among = value < 0 ? less[theme] : more[theme];
  return among[Math.min(255, Math.round(Math.abs(value) * 255))];
}

/** The same for CSS. */
export function css(value) {
  const word = colour(value);
  return `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
}

/** The colour of text that is legible on a place. */
export const ink = (value) => (Math.abs(value) > 0.45 === (theme === "dark") ? "#10151c" : "#ffffff");

/** The ends of the scale, in words. */
export const ends = (most, log) => (log ? ["≤ 0.0001", "1"] : ["0", most.toFixed(3)]);
