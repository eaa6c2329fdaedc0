// Sharing: Figure 6's pies with filters by owner and importance.
const shareBox = document.querySelector('[data-explorer="sharing"]');

function slice(x, y, radius, from, to) {
  if (to - from > .9999) return `M${x - radius},${y}a${radius},${radius} 0 1,1 ${2 * radius},0a${radius},${radius} 0 1,1 ${-2 * radius},0Z`;
  const point = turn => [x + radius * Math.sin(2 * Math.PI * turn), y - radius * Math.cos(2 * Math.PI * turn)];
  const [x1, y1] = point(from), [x2, y2] = point(to);
  return `M${x},${y}L${x1},${y1}A${radius},${radius} 0 ${to - from > .5 ? 1 : 0},1 ${x2},${y2}Z`;
}

function drawShares() {
  const set = DATA.shares[shareBox.querySelector("[data-set]").value], owners = shareBox.querySelector("[data-owner]");
  const tasks = ["any task", ...set.tasks];
  if (owners.tasks !== tasks.join("\n")) {
    owners.replaceChildren(...tasks.map((task, i) => element("option", {value: i - 1}, task)));
    owners.tasks = tasks.join("\n");
  }
  const owner = +owners.value, least = +shareBox.querySelector("[data-least]").value / 100;
  shareBox.querySelector("output").textContent = `${Math.round(100 * least)} % of the largest`;
  const layers = set.heads.length, heads = set.heads[0].length, size = heads > 12 ? 34 : 44, left = 46, top = 24;
  const width = left + (heads + 1) * size + 24, height = top + layers * size + 4;
  const drawing = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, "font-size": 12, role: "group", "aria-label": "Importance and task shares"});
  const ink = colour("ink"), label = (x, y, text) => drawing.append(svg("text", {x, y, fill: ink, "text-anchor": "middle"}, text));
  const topHead = Math.max(...set.heads.flat(), 1e-300), topFfn = Math.max(...set.ffn, 1e-300);
  for (let h = 0; h < heads; h++) label(left + (h + .5) * size, 16, h);
  label(left + (heads + .5) * size + 14, 16, "FFN");
  let shown = 0;
  for (let layer = 0; layer < layers; layer++) {
    const y = top + (layers - 1 - layer + .5) * size;
    label(left - 16, y + 4, layer);
    for (let h = 0; h <= heads; h++) {
      const ffn = h === heads, importance = ffn ? set.ffn[layer] / topFfn : set.heads[layer][h] / topHead;
      const shares = set.tasks.map((_, t) => ffn ? set.ffnShares[t][layer] : set.headShares[t][layer][h]);
      const largest = shares.indexOf(Math.max(...shares));
      if (importance < least || importance === 0 || (owner >= 0 && largest !== owner)) continue;
      shown++;
      const x = left + (h + .5) * size + (ffn ? 14 : 0), radius = .47 * size * Math.sqrt(importance);
      const name = `layer ${layer}, ${ffn ? "FFN" : "head " + h}: importance ${importance.toFixed(2)}; ` + set.tasks.map((t, i) => `${t} ${shares[i].toFixed(2)}`).join(", ");
      const group = svg("g", {role: "img", "aria-label": name});
      group.append(svg("title", {}, name));
      let from = 0;
      shares.forEach((share, task) => {
        if (share > 0) group.append(svg("path", {d: slice(x, y, radius, from, from + share), fill: PALETTE[task % PALETTE.length], stroke: colour("card"), "stroke-width": .6}));
        from += share;
      });
      drawing.append(group);
    }
  }
  shareBox.querySelector(".plot").replaceChildren(drawing);
  shareBox.querySelector(".counts").textContent = `${shown} of ${layers * (heads + 1)} heads and FFNs shown` + (owner >= 0 ? `: those whose largest share is ${set.tasks[owner]}'s.` : ".");
  showLegend(shareBox.querySelector(".legend"), set.tasks.map((task, i) => [task, PALETTE[i % PALETTE.length]]));
}

if (shareBox) {
  shareBox.addEventListener("input", drawShares);
  shareBox.addEventListener("change", drawShares);
  redraw.push(drawShares);
  drawShares();
}
