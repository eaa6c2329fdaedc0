// Dominant tickets: matrices by layer; details of a cell, who else has its dimensions, one dimension followed through all layers.
const dominantBox = document.querySelector('[data-explorer="dominants"]');

const OUT_WEIGHTED = {
  name: "out-weighted parameters", said: (value, most) => `${value} of ${most}`,
  told: "The stronger a cell's colour, the larger the part of its first dimension that is out-weighted.",
};
const VALUES = {
  ticket: OUT_WEIGHTED, counts: OUT_WEIGHTED,
  salience: {
    name: "salience", said: (value, most) => `${value}; the matrix's largest is ${most}`,
    told: "The stronger a cell's colour, the more salient its first dimension, as a part of the largest in its matrix over all layers.",
  },
};

function dominantState() {
  const text = dominantBox.querySelector("[data-dimension]").value.trim();
  return {
    entry: DATA.dominants[+dominantBox.querySelector("[data-ticket]").value],
    space: dominantBox.querySelector("[data-space]").value,
    followed: text === "" ? null : text === "bias" ? "bias" : Number(text),
  };
}

function isFollowed(entry, matrix, index, state) {
  if (state.followed === "bias") return index === entry.bias[matrix.id];
  return matrix.space === state.space && index === state.followed && index !== entry.bias[matrix.id];
}

function dimensionName(entry, matrix, index) {
  return index === entry.bias[matrix.id] ? "bias" : String(index);
}

function drawDominants() {
  const state = dominantState(), {entry} = state, layers = entry.size[0];
  const wide = Math.min(4, Math.max(...DATA.matrices.map(m => Math.max(...entry.dimensions[m.id].map(d => d.length)))));
  const cell = Math.max(86, 34 * wide + 14), row = 26, left = 46, top = 24;
  const width = left + cell * DATA.matrices.length + 4, height = top + layers * row + 4;
  const drawing = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, "font-size": 12, role: "group", "aria-label": entry.name});
  const ink = colour("ink"), found = [];
  DATA.matrices.forEach((m, column) => drawing.append(svg("text", {x: left + (column + .5) * cell, y: 16, fill: ink, "text-anchor": "middle", "font-weight": 600}, m.name)));
  for (let layer = 0; layer < layers; layer++) {
    const y = top + (layers - 1 - layer) * row;
    drawing.append(svg("text", {x: left - 8, y: y + 17, fill: ink, "text-anchor": "end"}, layer));
    DATA.matrices.forEach((m, column) => {
      const dims = entry.dimensions[m.id][layer], names = dims.map(i => dimensionName(entry, m, i));
      const hit = state.followed !== null && dims.some(i => isFollowed(entry, m, i, state));
      if (hit) found.push([layer, m.name]);
      const part = entry.values && dims.length ? entry.values[m.id][layer][0] / entry.most[m.id] : 0;
      const fill = hit ? colour("b") : entry.values && dims.length ? blend(part) : dims.length ? colour("card") : colour("gone");
      const group = svg("g", {role: "img", "data-layer": layer, "data-column": column, "data-hit": hit,
        "aria-label": `layer ${layer}, ${m.name}: ${names.join(", ") || "none"}`});
      group.append(svg("rect", {x: left + column * cell + 1, y: y + 1, width: cell - 2, height: row - 2, rx: 4, fill, stroke: colour("line")}));
      const text = names.length ? names.slice(0, 4).join(" ") + (names.length > 4 ? " …" : "") : "–";
      const dark = document.documentElement.dataset.theme === "dark";
      const onColour = hit ? "#1b1f24" : entry.values && part > .25 ? (dark ? "#0b0f14" : "#fff") : names.length ? ink : colour("soft");
      group.append(svg("text", {x: left + (column + .5) * cell, y: y + 17, fill: onColour, "text-anchor": "middle", "font-weight": hit ? 700 : 400}, text));
      drawing.append(group);
    });
  }
  dominantBox.querySelector(".plot").replaceChildren(drawing);
  const told = dominantBox.querySelector(".counts");
  if (state.followed === null) {
    told.textContent = entry.values ? VALUES[entry.kind].told : "";
    return;
  }
  const inLayers = new Set(found.map(([layer]) => layer));
  told.textContent = `${state.followed === "bias" ? "The bias" : `Dimension ${state.followed} of the ${state.space}`} is in ${inLayers.size} of ${layers} layers, ` +
    `${found.length} matrices` + (found.length ? `: ${found.map(([layer, name]) => `${name} ${layer}`).join(", ")}.` : ".");
}

function showCell(layer, column) {
  const {entry} = dominantState(), m = DATA.matrices[column], dims = entry.dimensions[m.id][layer];
  const alike = DATA.dominants.filter(other => String(other.size) === String(entry.size) && other.kind === "ticket");
  const box = dominantBox.querySelector(".detail");
  dominantBox.at = [layer, column];
  for (const group of dominantBox.querySelectorAll(".plot g")) {
    const here = +group.dataset.layer === layer && +group.dataset.column === column;
    group.firstChild.setAttribute("stroke", here ? colour("ink") : colour("line"));
    group.firstChild.setAttribute("stroke-width", here ? 2.5 : 1);
  }
  const table = element("table");
  table.append(element("caption", {}, `Layer ${layer}, ${m.name} (${m.space})`));
  const head = element("tr");
  for (const name of ["dimension", VALUES[entry.kind].name, "in the tickets of"]) head.append(element("th", {scope: "col"}, name));
  table.append(head);
  dims.forEach((index, place) => {
    const row = element("tr"), button = element("button", {type: "button"}, dimensionName(entry, m, index));
    button.addEventListener("click", () => follow(m, dimensionName(entry, m, index)));
    const first = element("td");
    first.append(button);
    const owners = alike.filter(other => other.dimensions[m.id][layer].includes(index)).map(other => other.name);
    row.append(first, element("td", {}, entry.values ? VALUES[entry.kind].said(entry.values[m.id][layer][place], entry.most[m.id]) : "not recorded"),
      element("td", {title: owners.join(", ")}, `${owners.length} of ${alike.length}: ${owners.join(", ")}`));
    table.append(row);
  });
  box.replaceChildren(dims.length ? table : element("p", {}, `Layer ${layer}, ${m.name}: no dimension is in the ticket.`));
}

function follow(matrix, name) {
  dominantBox.querySelector("[data-space]").value = matrix.space;
  dominantBox.querySelector("[data-dimension]").value = name;
  drawDominants();
}

if (dominantBox) {
  const spaces = [...new Set(DATA.matrices.map(m => m.space))];
  dominantBox.querySelector("[data-space]").append(...spaces.map(space => element("option", {}, space)));
  dominantBox.querySelector("[data-clear]").addEventListener("click", () => {
    dominantBox.querySelector("[data-dimension]").value = "";
    drawDominants();
  });
  dominantBox.addEventListener("input", drawDominants);
  dominantBox.querySelector("[data-ticket]").addEventListener("change", () => dominantBox.querySelector(".detail").replaceChildren());
  const plot = dominantBox.querySelector(".plot"), cellOf = event => event.target.closest && event.target.closest("g[data-layer]");
  plot.addEventListener("pointerover", event => cellOf(event) && showCell(+cellOf(event).dataset.layer, +cellOf(event).dataset.column));
  const followFirst = (layer, column) => {
    const {entry} = dominantState(), m = DATA.matrices[column], dims = entry.dimensions[m.id][layer];
    if (dims.length) follow(m, dimensionName(entry, m, dims[0]));
    showCell(layer, column);
  };
  plot.addEventListener("click", event => cellOf(event) && followFirst(+cellOf(event).dataset.layer, +cellOf(event).dataset.column));
  plot.addEventListener("keydown", event => {
    const [layer, column] = dominantBox.at || [dominantState().entry.size[0] - 1, 0], layers = dominantState().entry.size[0];
    const moves = {ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (event.key === "Enter") followFirst(layer, column);
    else if (moves) showCell((layer + moves[0] + layers) % layers, (column + moves[1] + DATA.matrices.length) % DATA.matrices.length);
    else return;
    event.preventDefault();
  });
  redraw.push(drawDominants);
  drawDominants();
}
