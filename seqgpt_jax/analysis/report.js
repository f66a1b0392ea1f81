"use strict";
// The page's script: themes, sortable tables, and one dataset at a time with its records. It builds elements and sets
// their text, and never parses markup, so that nothing a dataset or a model wrote can become part of the page.
(() => {
  const PER_PAGE = 20;
  const KINDS = ["missed", "wrong_type", "boundary", "invented", "unparsed"];
  const blocks = [...document.querySelectorAll("script.dataset-json")];
  const parsed = new Map();
  const byId = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "style") element.style.cssText = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }
  const clear = (element, ...children) => element.replaceChildren(...children.flat().filter(Boolean));
  const words = (kind) => kind.replaceAll("_", " ");
  const score = (value) => (value === null || value === undefined ? "-" : value.toFixed(3));
  const share = (value) => (value === null || value === undefined ? "-" : (100 * value).toFixed(1) + "%");
  const bdi = (text) => h("bdi", {}, shown(text));

  // Characters that have no shape of their own, or that turn the rest of the line around, are shown by their number.
  const HIDDEN = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff])/g;
  function shown(text) {
    const fragment = document.createDocumentFragment();
    String(text).split(HIDDEN).forEach((part, i) => {
      if (i % 2) fragment.append(h("span", { class: "code" }, "U+" + part.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")));
      else if (part) fragment.append(part);
    });
    return fragment;
  }

  function dataset(place) {
    if (!parsed.has(place)) parsed.set(place, JSON.parse(blocks[place].textContent));
    return parsed.get(place);
  }

  // --- themes ---
  const theme = byId("theme");
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  theme.hidden = false;
  theme.textContent = dark() ? "Light" : "Dark";
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    theme.textContent = dark() ? "Light" : "Dark";
  });

  // --- sortable tables ---
  const collator = new Intl.Collator("en", { numeric: true });
  function sortable(table) {
    table.classList.add("live");
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.tabIndex = 0;
      const sort = () => {
        const numeric = head.classList.contains("n");
        const now = head.getAttribute("aria-sort");
        const downwards = now ? now === "ascending" : numeric;
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", downwards ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        rows.sort((a, b) => (downwards ? -1 : 1) * (numeric ? key(a) - key(b) : collator.compare(key(a), key(b))));
        table.tBodies[0].append(...rows);
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }
  document.querySelectorAll("table.sortable").forEach(sortable);

  // --- the table of datasets ---
  const table = byId("dataset-table");
  byId("find-dataset").addEventListener("input", (event) => {
    const sought = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const row of table.tBodies[0].rows) {
      const text = [...row.cells].slice(0, 4).map((cell) => cell.textContent.trim().toLowerCase()).join(" ");
      row.hidden = !sought.every((word) => text.includes(word));
      number += !row.hidden;
    }
    byId("num-datasets").textContent = `${number} of ${blocks.length} datasets`;
  });
  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !event.target.closest("a")) location.hash = `dataset-${row.dataset.dataset}`;
  });

  // --- one dataset ---
  function scoresPanel(data) {
    const rows = Object.entries(data.metrics).map(([name, value]) =>
      h("tr", {}, h("th", { scope: "row" }, data.metric_names[name]),
        h("td", { class: name === data.headline ? "n strong" : "n" }, score(value)),
        h("td", { class: "n quiet" }, score(data.baseline_metrics[name]))));
    return panel("Scores", h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "metric"), h("th", { class: "n" }, "score"), h("th", { class: "n" }, "baseline"))), h("tbody", {}, rows)));
  }
  const panel = (title, content, extent = "") => h("article", { class: `panel ${extent}` }, h("h4", {}, title), h("div", { class: "inner" }, content));

  function ratesPanel(data) {
    const free = data.unconstrained;
    const names = { parse_error_rate: "malformed answers", unasked_rate: "labels not asked", hallucination_rate: "strings not in the text" };
    const rows = Object.entries(names).map(([name, title]) =>
      h("tr", {}, h("th", { scope: "row" }, title), h("td", { class: "n" }, free ? share(free[name]) : "-"), h("td", { class: "n" }, share(data.rates[name]))));
    rows.push(h("tr", {}, h("th", { scope: "row" }, "questions"), h("td", { class: "n" }, free ? String(free.num_questions) : "-"), h("td", { class: "n" }, String(data.rates.num_questions))));
    rows.push(h("tr", {}, h("th", { scope: "row" }, "texts cut"), h("td", { class: "n" }, ""), h("td", { class: "n" }, String(data.num_cut))));
    return panel("Answers", h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "share"), h("th", { class: "n" }, "free"), h("th", { class: "n" }, "scored"))), h("tbody", {}, rows)));
  }

  function labelsPanel(data) {
    if (!data.by_label || !data.by_label.length) return null;
    const rows = data.by_label.map((row) =>
      h("tr", {}, h("td", {}, row.label === null ? h("i", { class: "quiet" }, "labels not asked") : bdi(row.label)),
        ...[row.f1, row.precision, row.recall].map((value, i) => h("td", { class: i ? "n" : "n strong", "data-value": value ?? -1 }, score(value))),
        ...[row.support, row.predicted].map((value) => h("td", { class: "n", "data-value": value }, String(value)))));
    const heads = [["label"], ["F1"], ["P", "precision"], ["R", "recall"], ["gold", "gold items"], ["said", "predicted items"]]
      .map(([name, title], i) => h("th", { class: i ? "n" : null, title }, name));
    const made = h("table", { class: "sortable" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows));
    sortable(made);
    return panel(`Labels (${data.by_label.length})`, made, "labels");
  }

  function lengthsPanel(data) {
    if (!data.by_length || !data.by_length.length) return null;
    return panel("Length of the text, in characters", data.by_length.map((row) =>
      h("div", { class: "level" }, h("span", {}, row.below === null ? `${row.at_least} or more` : `${row.at_least} to ${row.below - 1}`),
        h("span", { class: "track" }, h("div", { class: "fill score", style: `width: ${(100 * row.score).toFixed(2)}%` })),
        h("span", { class: "n" }, score(row.score), " ", h("small", {}, `${row.num_records} records`)))));
  }

  function errorsPanel(data) {
    const counts = KINDS.map((kind) => data.errors[kind]?.count ?? 0);
    const most = Math.max(1, ...counts);
    const rows = KINDS.map((kind, i) =>
      h("div", { class: "level" }, h("span", {}, h("i", { class: "swatch " + kind }), words(kind)),
        h("span", { class: "track" }, h("div", { class: "fill " + kind, style: `width: ${(100 * counts[i]) / most}%` })),
        h("span", { class: "n" }, h("button", { type: "button", disabled: !counts[i] || !data.records.length, onclick: () => { filters.kind = kind; filters.only = false; filters.page = 0; drawRecords(); byId("records").scrollIntoView(); } }, String(counts[i])))));
    return panel("Errors", rows);
  }

  function confusionPanel(data) {
    const matrix = data.confusion;
    if (!matrix) return null;
    const others = matrix.counts[matrix.labels.length].some(Boolean);
    const columns = [...matrix.labels, "other", "nothing"];
    const used = columns.map((_, j) => j < matrix.labels.length || matrix.counts.some((row) => row[j]));
    const rows = [...matrix.labels, ...(others ? ["other"] : [])].map((label, i) => {
      const counts = matrix.counts[i];
      const total = counts.reduce((sum, count) => sum + count, 0);
      return h("tr", {}, h("th", { scope: "row" }, bdi(label), " ", h("small", {}, String(total))), counts.map((count, j) => {
        if (!used[j]) return null;
        const part = total ? count / total : 0;
        const hit = i === j && i < matrix.labels.length;
        const shade = `background: color-mix(in srgb, var(--${hit ? "right" : "invented"}) ${Math.round(65 * part)}%, transparent)`;
        return h("td", { style: count ? shade : null, class: hit ? "hit" : null, title: `${label} taken for ${columns[j]}: ${count}` }, count ? String(count) : "");
      }));
    });
    const heads = columns.map((label, j) => (used[j] ? h("th", {}, bdi(label)) : null));
    return panel("Confusion: gold in rows, what was said in columns", h("table", { class: "matrix" }, h("thead", {}, h("tr", {}, h("th", {}), heads)), h("tbody", {}, rows)), "broad");
  }

  // --- records ---
  const filters = { place: 0, only: false, kind: "", label: "", text: "", page: 0 };
  const wrong = (record) => record.items.some((item) => item[0] !== "right");

  function matches(record) {
    if (filters.only && !wrong(record)) return false;
    if (filters.kind && !record.items.some((item) => item[0] === filters.kind)) return false;
    if (filters.label && !record.labels.includes(filters.label)) return false;
    if (!filters.text) return true;
    record.sought ??= [record.id, record.text, record.pair, record.question, ...(record.accepted ?? []), ...record.labels, ...record.items.flatMap((item) => item.slice(1)), ...(record.answers ?? []).map((answer) => answer.raw)]
      .filter(Boolean).join("\n").toLowerCase();
    return record.sought.includes(filters.text.toLowerCase());
  }

  // Places count code points, strings of the script UTF-16 units: the text is cut into characters first.
  function marked(record) {
    const characters = [...record.text];
    const gold = record.gold ?? [], said = record.said ?? [];
    const cuts = [...new Set([0, characters.length, ...[...gold, ...said].flatMap((span) => span.slice(1, 3))])].sort((a, b) => a - b);
    const covering = (spans, from, to) => spans.filter((span) => span[1] <= from && span[2] >= to);
    return cuts.slice(1).map((to, i) => {
      const from = cuts[i], text = shown(characters.slice(from, to).join(""));
      const inGold = covering(gold, from, to), inSaid = covering(said, from, to);
      if (!inGold.length && !inSaid.length) return text;
      const names = (spans) => [...new Set(spans.map((span) => span[0] + "\u0000" + span[1] + "\u0000" + span[2]))].sort().join("\u0001");
      const kind = !inSaid.length ? "gold" : !inGold.length ? "said" : names(inGold) === names(inSaid) ? "both" : "differs";
      const title = [["gold", inGold], ["said", inSaid]].filter(([, spans]) => spans.length).map(([side, spans]) => `${side}: ${spans.map((span) => span[0]).join(", ")}`).join("; ");
      return h("mark", { class: kind, title }, text);
    });
  }

  function item([kind, gold, said]) {
    const sides = kind === "right" ? [[null, gold ?? said]] : [["gold", gold], ["said", said]];
    return h("li", { class: "item" }, h("b", { class: kind }, words(kind)), sides.filter(([, text]) => text !== null && text !== undefined).map(([side, text]) => h("span", {}, side ? h("i", {}, side) : null, bdi(text))));
  }

  function answers(record, data) {
    if (!record.answers) return null;
    const fill = (details) => {
      if (details.childElementCount > 1) return;
      for (const answer of record.answers) {
        const asked = data.label_lists[answer.labels] ?? [];
        details.append(h("p", { class: "ask" }, [answer.step, ...(answer.query ?? [])].join(" / "), ": ", bdi(asked.join(", "))));
        if (answer.text) details.append(h("p", { class: "ask" }, "text: ", bdi(answer.text)));
        details.append(h("pre", {}, shown(answer.raw ?? "")));
        for (const problem of answer.problems ?? []) details.append(h("div", { class: "problem" }, bdi(problem)));
        if (answer.tokens_cut) details.append(h("div", { class: "problem" }, `${answer.tokens_cut} tokens of the text were cut`));
      }
    };
    const details = h("details", { ontoggle: () => fill(details) }, h("summary", {}, `raw answers (${record.answers.length})`));
    return details;
  }

  function recordCard(record, data) {
    const asked = [["question", record.question], ["about", record.target], ["accepted", (record.accepted ?? []).join(" | ") || null]];
    return h("article", { class: wrong(record) ? "record wrong" : "record", "data-id": record.id },
      h("div", { class: "record-top" }, bdi(record.id), record.answers?.some((answer) => answer.problems) ? h("span", { class: "problem" }, "an answer is not well-formed") : null),
      h("p", { class: "text", dir: "auto" }, marked(record)),
      record.pair ? h("p", { class: "text", dir: "auto" }, shown(record.pair)) : null,
      asked.filter(([, text]) => text).map(([name, text]) => h("p", { class: "ask" }, name + ": ", bdi(text))),
      h("ul", { class: "items" }, record.items.length ? record.items.map(item) : h("li", { class: "quiet" }, "nothing to find, and nothing said")),
      answers(record, data));
  }

  function drawRecords() {
    const data = dataset(filters.place);
    const found = data.records.filter(matches);
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    filters.page = Math.min(filters.page, pages - 1);
    byId("only").checked = filters.only;
    byId("kind").value = filters.kind;
    byId("label").value = filters.label;
    if (byId("text").value !== filters.text) byId("text").value = filters.text;
    byId("num-records").textContent = `${found.length} of ${data.records.length} records`;
    const page = found.slice(filters.page * PER_PAGE, (filters.page + 1) * PER_PAGE);
    clear(byId("record-list"), page.map((record) => recordCard(record, data)));
    const turn = (by) => () => { filters.page += by; drawRecords(); byId("records").scrollIntoView(); };
    clear(byId("pager"), pages > 1 ? [
      h("button", { type: "button", disabled: filters.page === 0, onclick: turn(-1) }, "Earlier"),
      h("span", {}, `page ${filters.page + 1} of ${pages}`),
      h("button", { type: "button", disabled: filters.page === pages - 1, onclick: turn(1), id: "later" }, "Later")] : []);
  }

  function recordsPart(data) {
    if (!data.records.length) return [h("h3", { id: "records", class: "records-head" }, "Records"), h("p", { class: "quiet" }, "No predictions were written beside this report.")];
    const labels = [...new Set(data.records.flatMap((record) => record.labels))].sort(collator.compare);
    const change = (name, value) => { filters[name] = value; filters.page = 0; drawRecords(); };
    const left = data.left_out ? h("p", { class: "note", id: "left-out" }, `The first ${data.records.length} of ${data.records.length + data.left_out} records are here; all of them are in ${data.predictions}.`) : null;
    const spans = data.kind !== "classification";
    return [
      h("h3", { id: "records", class: "records-head" }, "Records"), left,
      h("div", { class: "tools" },
        h("label", {}, h("input", { type: "checkbox", id: "only", onchange: (event) => change("only", event.target.checked) }), "errors only"),
        h("select", { id: "kind", "aria-label": "Kind of error", onchange: (event) => change("kind", event.target.value) }, h("option", { value: "" }, "every kind"), ["right", ...KINDS].map((kind) => h("option", { value: kind }, words(kind)))),
        h("select", { id: "label", "aria-label": "Label", disabled: !labels.length, onchange: (event) => change("label", event.target.value) }, h("option", { value: "" }, "every label"), labels.map((label) => h("option", { value: label }, shown(label).textContent))),
        h("input", { type: "search", id: "text", placeholder: "text, id or answer", "aria-label": "Search records", oninput: (event) => change("text", event.target.value) }),
        h("span", { class: "quiet", id: "num-records" })),
      spans ? h("p", { class: "key" }, h("mark", { class: "both" }, "gold and said"), h("mark", { class: "gold" }, "gold only"), h("mark", { class: "said" }, "said only"), h("mark", { class: "differs" }, "both, but not the same")) : null,
      h("div", { id: "record-list" }), h("div", { id: "pager", class: "pager" })];
  }

  function show(place, sought = "") {
    const data = dataset(place);
    Object.assign(filters, { place, only: false, kind: "", label: "", text: sought, page: 0 });
    byId("choose").value = String(place);
    byId("previous").disabled = place === 0;
    byId("next").disabled = place === blocks.length - 1;
    for (const row of table.tBodies[0].rows) row.classList.toggle("chosen", row.dataset.dataset === String(place));
    const interval = data.interval ? ` (95%: ${score(data.interval[0])} to ${score(data.interval[1])})` : "";
    clear(byId("dataset"),
      h("div", { class: "of-dataset" }, h("h3", {}, bdi(data.name)),
        h("span", { class: "quiet" }, `${data.language}, ${data.task}, ${data.num_records} records: ${data.metric_names[data.headline]} `, h("b", {}, score(data.score)), `${interval}, baseline ${score(data.baseline)}`)),
      h("div", { class: "panels" }, scoresPanel(data), errorsPanel(data), ratesPanel(data), labelsPanel(data), lengthsPanel(data), confusionPanel(data)),
      recordsPart(data));
    if (data.records.length) drawRecords();
  }

  let sought = "";
  function follow(scroll) {
    const place = /^#dataset-(\d+)$/.exec(location.hash);
    if (!place || !blocks[place[1]]) return false;
    show(Number(place[1]), sought);
    (sought ? byId("records") : byId("explore")).scrollIntoView();
    sought = "";
    return true;
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-record]");
    if (!link) return;
    sought = link.dataset.record;
    if (link.getAttribute("href") === location.hash) follow();
  });
  addEventListener("hashchange", follow);
  const go = (by) => () => { location.hash = `dataset-${filters.place + by}`; };
  byId("previous").addEventListener("click", go(-1));
  byId("next").addEventListener("click", go(1));
  byId("choose").addEventListener("change", (event) => { location.hash = `dataset-${event.target.value}`; });
  if (blocks.length && !follow()) show(0);
})();
