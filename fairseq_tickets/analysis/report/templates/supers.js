// Super tickets: heads by layer with the FFN on the right; a slider over levels, colour by importance, two tickets compared.
const superBox = document.querySelector('[data-explorer="supers"]');

function maskAt(entry, step) {
  if (!entry.order) return entry.steps[step];
  const [layers, heads] = entry.size, cut = (order, count, total) => {
    const flags = Array(total).fill("1");
    for (const index of order.slice(0, count)) flags[index] = "0";
    return flags.join("");
  };
  return {label: step + " %", heads: cut(entry.order.heads, entry.order.heads_cut[step], layers * heads),
          ffn: cut(entry.order.ffn, entry.order.ffn_cut[step], layers)};
}

function nextMask(entry, step) {  // the mask of the next level at which anything goes
  const now = maskAt(entry, step), last = stepsOf(entry) - 1;
  for (let next = step + 1; next <= last; next++) {
    const mask = maskAt(entry, next);
    if (mask.heads !== now.heads || mask.ffn !== now.ffn) return mask;
  }
  return now;
}

function stepsOf(entry) { return entry.order ? 100 : entry.steps.length; }

function jaccardText(a, b) {
  let both = 0, onlyA = 0, onlyB = 0;
  for (let i = 0; i < a.length; i++) {
    if (a[i] === "1" && b[i] === "1") both++; else if (a[i] === "1") onlyA++; else if (b[i] === "1") onlyB++;
  }
  const either = both + onlyA + onlyB;
  return `both ${both}, only A ${onlyA}, only B ${onlyB}, J = ${(either ? both / either : 1).toFixed(3)}`;
}

function blend(share) {  // pale to the accent, readable in grey
  const dark = document.documentElement.dataset.theme === "dark";
  const from = dark ? [38, 48, 58] : [222, 235, 247], to = dark ? [86, 180, 233] : [0, 78, 140];
  return `rgb(${from.map((v, i) => Math.round(v + (to[i] - v) * Math.sqrt(share))).join(",")})`;
}

function drawSupers() {
  const side = name => {
    const choice = superBox.querySelector(`select[data-side="${name}"]`).value;
    if (choice === "") return null;
    const entry = DATA.supers[+choice], slider = superBox.querySelector(`[data-level="${name}"]`);
    slider.max = stepsOf(entry) - 1;
    slider.disabled = stepsOf(entry) < 2;
    const step = Math.min(+slider.value, +slider.max), mask = maskAt(entry, step);
    superBox.querySelector(`[data-level-text="${name}"]`).textContent = mask.label;
    slider.setAttribute("aria-valuetext", mask.label);
    return {entry, step, mask, next: nextMask(entry, step)};
  };
  const a = side("A");
  let b = side("B");
  const counts = superBox.querySelector(".counts");
  const [layers, heads] = a.entry.size, ones = text => [...text].filter(c => c === "1").length;
  superBox.querySelector('[data-level="B"]').parentElement.hidden = !b;
  if (b && String(b.entry.size) !== String(a.entry.size)) {
    counts.textContent = `A and B belong to models of different sizes (${a.entry.size.join(" x ")} and ${b.entry.size.join(" x ")} layers x heads): they can't be compared.`;
    b = null;
  } else if (b) {
    counts.textContent = `Heads: ${jaccardText(a.mask.heads, b.mask.heads)}. FFNs: ${jaccardText(a.mask.ffn, b.mask.ffn)}.`;
  } else {
    const leaving = ones(a.mask.heads) - ones(a.next.heads), ffns = ones(a.mask.ffn) - ones(a.next.ffn);
    counts.textContent = `${ones(a.mask.heads)} of ${layers * heads} heads and ${ones(a.mask.ffn)} of ${layers} FFNs kept` +
      (leaving || ffns ? `; next to go: ${leaving} heads, ${ffns} FFNs.` : ".");
  }
  const importance = !b && superBox.querySelector("[data-importance]").checked ? a.entry.importance : null;
  const size = heads > 12 ? 30 : 38, left = 46, top = 24, width = left + (heads + 1) * size + 22, height = top + layers * size + 6;
  const drawing = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Heads and FFNs by layer", "font-size": 12});
  const ink = colour("ink"), label = (x, y, text, anchor = "middle") => drawing.append(svg("text", {x, y, fill: ink, "text-anchor": anchor}, text));
  for (let h = 0; h < heads; h++) label(left + (h + .5) * size, 16, h);
  label(left + (heads + .5) * size + 14, 16, "FFN");
  for (let layer = 0; layer < layers; layer++) {
    const y = top + (layers - 1 - layer) * size;
    label(left - 8, y + size / 2 + 4, layer, "end");
    for (let h = 0; h <= heads; h++) {
      const ffn = h === heads, i = ffn ? layer : layer * heads + h, kind = ffn ? "ffn" : "heads";
      const inA = a.mask[kind][i] === "1", inB = b && b.mask[kind][i] === "1", goes = !b && inA && a.next[kind][i] === "0";
      const state = b ? (inA ? (inB ? "both" : "only A") : inB ? "only B" : "neither") : inA ? (goes ? "next to go" : "kept") : "pruned";
      const share = importance ? importance[kind][i] : null;
      const fill = b ? {both: colour("both"), "only A": colour("a"), "only B": colour("b"), neither: colour("gone")}[state]
        : !inA ? colour("gone") : share === null ? colour("a") : blend(share);
      const name = `layer ${layer}, ${ffn ? "FFN" : "head " + h}: ${state}` + (share === null ? "" : `, importance ${share.toFixed(2)}`);
      const x = left + h * size + (ffn ? 14 : 0) + 2;
      const group = svg("g", {role: "img", "aria-label": name, "data-state": state, "data-kind": kind});
      group.append(svg("title", {}, name));
      group.append(svg("rect", {x, y: y + 2, width: size - 4, height: size - 4, rx: 4, fill, stroke: goes ? colour("b") : colour("line"),
        "stroke-width": goes ? 3 : 1, "stroke-dasharray": goes ? "4 3" : "none"}));
      const glyph = {"only A": "A", "only B": "B", pruned: "×", neither: "×"}[state];
      if (glyph) group.append(svg("text", {x: x + size / 2 - 2, y: y + size / 2 + 4, "text-anchor": "middle",
        fill: state === "only A" ? "#fff" : state === "only B" ? "#1b1f24" : colour("soft")}, glyph));
      drawing.append(group);
    }
  }
  superBox.querySelector(".plot").replaceChildren(drawing);
  const keys = b ? [["both", colour("both")], ["only A", colour("a")], ["only B", colour("b")], ["× neither", colour("gone")]]
    : [[importance ? "kept: the stronger the colour, the more important" : "kept", importance ? blend(.6) : colour("a")], ["dashed: next to go", colour("b")], ["× pruned", colour("gone")]];
  showLegend(superBox.querySelector(".legend"), keys);
}

function showLegend(place, keys) {
  place.replaceChildren(...keys.map(([text, fill]) => {
    const key = element("span");
    const swatch = element("span", {class: "swatch"});
    swatch.style.background = fill;
    key.append(swatch, text);
    return key;
  }));
}

if (superBox) {
  superBox.addEventListener("input", drawSupers);
  superBox.addEventListener("change", drawSupers);
  redraw.push(drawSupers);
  drawSupers();
}
