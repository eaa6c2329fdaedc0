"use strict";
// What every part of the page uses: its data, small helpers for HTML and SVG, downloads, light and dark.
const DATA = JSON.parse(document.getElementById("data").textContent);
const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#777777"];
const redraw = [];  // called when the theme changes

function element(name, attributes = {}, text = null, namespace = null) {
  const made = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function svg(name, attributes = {}, text = null) {
  return element(name, attributes, text, "http://www.w3.org/2000/svg");
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function save(name, type, content) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], {type}));
  const link = element("a", {href: url, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function fileName(title) {
  return title.replace(/[^A-Za-z0-9.-]+/g, "_").slice(0, 80) || "picture";
}

function saveDrawing(drawing, title, kind) {
  const copy = drawing.cloneNode(true);
  const width = +drawing.getAttribute("width") || drawing.getBoundingClientRect().width;
  const height = +drawing.getAttribute("height") || drawing.getBoundingClientRect().height;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  if (!copy.getAttribute("font-family")) copy.setAttribute("font-family", "sans-serif");
  copy.prepend(svg("rect", {width: "100%", height: "100%", fill: colour("paper")}));
  const text = new XMLSerializer().serializeToString(copy);
  if (kind === "svg") return save(fileName(title) + ".svg", "image/svg+xml", text);
  const image = new Image();
  image.onload = () => {
    const canvas = element("canvas", {width: 2 * width, height: 2 * height});
    canvas.getContext("2d").drawImage(image, 0, 0, 2 * width, 2 * height);
    canvas.toBlob(blob => save(fileName(title) + ".png", "image/png", blob));
  };
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
}

document.addEventListener("click", event => {
  const button = event.target.closest("[data-save]");
  if (!button) return;
  const box = button.closest(".chart, .explorer");
  const drawing = box.querySelector(".plot svg");
  if (drawing) saveDrawing(drawing, box.dataset.explorer || box.querySelector("figcaption").textContent, button.dataset.save);
});

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  for (const draw of redraw) draw();
}
const wantsDark = matchMedia("(prefers-color-scheme: dark)");
document.documentElement.dataset.theme = wantsDark.matches ? "dark" : "light";
wantsDark.addEventListener("change", () => setTheme(wantsDark.matches));
document.getElementById("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
