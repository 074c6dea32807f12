"use strict";
(() => {
  // Colours in chart data are names of CSS variables ("--c1"), so that charts follow light and dark mode.
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");

  const resolve = (value, style) => {
    if (typeof value === "string" && value.startsWith("--")) return style.getPropertyValue(value).trim();
    if (Array.isArray(value)) return value.map((item) => resolve(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, style)]));
    return value;
  };

  const axis = (own) => ({
    gridcolor: "--grid", linecolor: "--line", zerolinecolor: "--line", tickcolor: "--line",
    automargin: true, title: { standoff: 8 }, ...own,
  });

  const layoutOf = (chart) => {
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 11 : 12.5, color: "--ink" },
      margin: { l: 8, r: narrow.matches ? 8 : 16, t: 12, b: 8 },
      hoverlabel: { bgcolor: "--card", bordercolor: "--line", font: { color: "--ink" }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      hovermode: "closest", dragmode: narrow.matches ? false : "zoom", ...chart.layout,
    };
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key] = axis(layout[key]);
    return layout;
  };

  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const [id, chart] of Object.entries(charts)) {
      const place = document.getElementById(id);
      if (place) Plotly.react(place, resolve(chart.data, style), resolve(layoutOf(chart), style), config);
    }
  };
  draw();
  const fit = new ResizeObserver((entries) => {
    for (const entry of entries) if (entry.target.offsetWidth) Plotly.Plots.resize(entry.target);
  });
  for (const id of Object.keys(charts)) fit.observe(document.getElementById(id));
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);

  for (const button of document.querySelectorAll(".copy"))
    button.addEventListener("click", async () => {
      const command = button.closest(".command").querySelector("pre");
      try {
        await navigator.clipboard.writeText(command.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });

  const table = document.getElementById("candidates");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const words = document.getElementById("filter");
  const outcome = document.getElementById("outcome");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  let limit = 20;

  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let matching = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      const fits = (!outcome.value || row.dataset.outcome === outcome.value) && wanted.every((word) => text.includes(word));
      if (fits) matching += 1;
      row.hidden = !fits || matching > limit;
    }
    const shown = Math.min(matching, limit);
    count.textContent = `${shown} of ${matching} shown`;
    more.hidden = matching <= limit;
  };

  const cellValue = (row, column) => {
    const value = row.cells[column].dataset.value;
    if (value === undefined) return row.cells[column].textContent;
    return value === "" ? NaN : Number(value);
  };
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sign = up ? 1 : -1;
      rows.sort((a, b) => {
        const x = cellValue(a, column), y = cellValue(b, column);
        if (typeof x === "string") return sign * x.localeCompare(y, "en", { numeric: true });
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      });
      body.append(...rows);
      show();
    }),
  );
  words.addEventListener("input", show);
  outcome.addEventListener("change", show);
  more.addEventListener("click", () => { limit = Infinity; show(); });
  show();
})();
