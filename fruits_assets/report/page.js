"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
  const pictures = parsed("pictures");
  const source = (number) => (pictures[number] ? `data:image/webp;base64,${pictures[number]}` : "");

  // A browser decodes the pictures of a class when the class is opened.
  const load = (image) => { image.src ||= source(image.dataset.photo); };
  all("img[data-photo]").filter((image) => !image.closest("details:not([open]) > :not(summary)")).forEach(load);
  document.addEventListener("toggle", (event) => {
    if (event.target.open) all("img[data-photo]", event.target).forEach(load);
  }, true);
  const openTarget = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target?.tagName === "DETAILS") {
      target.hidden = false;
      target.open = true;
    }
  };
  addEventListener("hashchange", openTarget);
  openTarget();

  for (const input of all("input[data-filter]")) {
    const output = input.closest(".tools").querySelector("output");
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      const items = all(input.dataset.filter);
      for (const item of items) {
        const text = item.tagName === "DETAILS" ? item.querySelector("summary") : item;
        item.hidden = !text.textContent.toLowerCase().includes(wanted);
      }
      const shown = items.filter((item) => !item.hidden).length;
      output.textContent = wanted ? `${shown.toLocaleString("en")} of ${items.length.toLocaleString("en")}` : "";
    });
  }
  for (const [name, open] of [["open", true], ["close", false]]) {
    for (const button of all(`button[data-${name}]`)) {
      button.addEventListener("click", () => {
        for (const details of all("details", document.querySelector(button.dataset[name]))) {
          if (!details.hidden) details.open = open;
        }
      });
    }
  }
  for (const button of all("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const numbers = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numbers;
      all("th", head.parentElement).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = head.closest("table").tBodies[0];
      const value = (row) => {
        const cell = row.cells[head.cellIndex];
        return numbers ? Number(cell.dataset.value) : cell.textContent;
      };
      const compare = numbers ? (one, other) => one - other : new Intl.Collator("en", { numeric: true }).compare;
      const rows = [...body.rows].map((row) => [value(row), row]);
      rows.sort(([one], [other]) => (descending ? -1 : 1) * compare(one, other));
      body.append(...rows.map(([, row]) => row));
    });
  }

  const charts = parsed("charts");
  for (const point of charts.data.points ?? []) point.image = source(point.photo);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const draw = () => {
    const styles = getComputedStyle(document.documentElement);
    const [text, soft, line] = ["--text", "--soft", "--line"].map((name) => styles.getPropertyValue(name));
    const config = {
      background: "transparent", font: "system-ui, sans-serif", view: { stroke: line },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line },
      legend: { labelColor: text, titleColor: soft },
    };
    for (const element of all("[data-chart]")) {
      const spec = { ...charts.specs[element.dataset.chart], datasets: charts.data };
      // `ast` interprets the expressions of Vega: the policy of this page forbids to evaluate text as a program.
      const options = {
        ast: true, actions: false, config, defaultStyle: false, renderer: "canvas", tooltip: { disableDefaultStyle: true },
      };
      vegaEmbed(element, spec, options).catch((error) => { element.textContent = `This chart failed: ${error.message}`; });
    }
  };
  dark.addEventListener("change", draw);
  draw();
})();
