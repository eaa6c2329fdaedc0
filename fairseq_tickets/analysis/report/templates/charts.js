// Vega-Lite charts: drawn when they come into view, with the variant that their controls choose; arrow keys step through marks.
function chartConfig() {
  const ink = colour("ink"), soft = colour("soft"), line = colour("line");
  return {
    background: "transparent", view: {stroke: line}, font: "system-ui, sans-serif",
    axis: {labelColor: ink, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500},
    legend: {labelColor: ink, titleColor: ink, labelFontSize: 11},
    text: {color: ink},
  };
}

function specOf(figure) {
  const chart = DATA.charts[figure.dataset.chart];
  const selects = [...figure.querySelectorAll("select")];
  const spec = chart.variants[selects.filter(s => !s.dataset.parameter).map(s => s.value).join("|")];
  if (!spec) return null;
  const chosen = Object.fromEntries(selects.filter(s => s.dataset.parameter).map(s => [s.dataset.parameter, s.value]));
  return {...spec, params: (spec.params || []).map(p => p.name in chosen ? {...p, value: chosen[p.name]} : p)};
}

async function drawChart(figure) {
  const spec = specOf(figure), plot = figure.querySelector(".plot");
  figure.drawn = true;
  if (!spec) {
    plot.textContent = "Not measured.";
    return;
  }
  const full = {...spec, datasets: DATA.datasets, config: chartConfig(), autosize: {type: "fit-x", contains: "padding"}};
  const theme = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
  if (figure.view) figure.view.finalize();
  figure.view = await vegaEmbed(plot, full, {renderer: "svg", actions: false, mode: "vega-lite", tooltip: {theme}});
  figure.dataset.ready = "yes";
}

const seen = new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries) if (isIntersecting && !target.drawn) drawChart(target);
}, {rootMargin: "300px"});

function stepMarks(figure, event) {
  if (event.target !== figure || !["ArrowRight", "ArrowLeft"].includes(event.key)) return;
  const marks = [...figure.querySelectorAll(".plot [role=graphics-symbol][aria-label]")]
    .filter(mark => mark.getAttribute("aria-roledescription") !== "axis" && mark.getAttribute("aria-roledescription") !== "legend");
  if (!marks.length) return;
  event.preventDefault();
  figure.at = ((figure.at ?? (event.key === "ArrowRight" ? -1 : 0)) + (event.key === "ArrowRight" ? 1 : -1) + marks.length) % marks.length;
  marks.forEach((mark, i) => mark.classList.toggle("marked", i === figure.at));
  figure.querySelector(".live").textContent = marks[figure.at].getAttribute("aria-label");
}

for (const figure of document.querySelectorAll("figure.chart")) {
  seen.observe(figure);
  figure.addEventListener("change", () => drawChart(figure));
  figure.addEventListener("keydown", event => stepMarks(figure, event));
  redraw.push(() => figure.drawn && drawChart(figure));
}
