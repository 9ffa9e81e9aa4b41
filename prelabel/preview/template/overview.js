// Totals, histograms and failures of the whole run, on top of the page.

const CLASSES_AT_FIRST = 8;

function showRun() {
  const { run } = data;
  const parts = [run.version || run.detector];
  const date = run.created ? new Date(run.created) : null;
  if (date && !Number.isNaN(date.getTime())) parts.push(date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }));
  if (run.id) parts.push(`run ${run.id.slice(0, 8)}`);
  parts.push(run.selection);
  byId("run").append(...parts.map((text) => el("span", {}, name(text))));
  document.title = `Preview of ${run.version || run.detector}`;
}

// Classes of which the thresholds keep something; the others come last, and only the slider shows them.
const seen = data.classes.filter((one) => one.count);

function showTiles() {
  const { images, failed, empty, detections } = data.totals;
  const done = images - failed;
  const tiles = [
    ["images", images, null, "all"],
    ["detections", detections, done ? `${(detections / done).toFixed(1)} per image` : null, "found"],
    ["classes seen", seen.length, null, null],
    ["nothing found", empty, share(empty, images), "empty"],
    ["failed", failed, share(failed, images), "failed"],
  ];
  byId("tiles").append(...tiles.map(([label, value, more, status]) => tile(label, value, more, status)));
}

function share(part, whole) {
  if (!whole || !part) return null;
  const value = (100 * part) / whole;
  return `${value < 0.1 ? "< 0.1" : value.toFixed(value < 10 ? 1 : 0)} %`;
}

function tile(label, value, more, status) {
  const inside = [el("strong", {}, count.format(value)), el("span", {}, label), more ? el("small", {}, more) : null];
  const bad = status === "failed" && value > 0 ? "bad" : undefined;
  if (!status || !value) return el("li", { class: bad }, el("div", {}, ...inside));
  const go = () => { set({ status }); byId("count").scrollIntoView({ block: "nearest" }); };
  const title = { all: "Show all", found: "Show images with detections", empty: "Show images on which nothing was found", failed: "Show failed images" };
  return el("li", { class: bad }, el("button", { type: "button", title: title[status], on: { click: go } }, ...inside));
}

// Upright bars. `say` puts a bar into words, `at` tells where its range begins.
function bars(parent, values, describe, ticks, say) {
  const most = Math.max(1, ...values);
  const made = values.map((value, place) =>
    el("span", { class: "bar", title: say(place) }, el("i", { style: { height: `${value ? Math.max(2, (100 * value) / most) : 0}%` } })));
  const axis = ticks.map(([at, text]) => el("span", { style: { left: `${at}%` } }, text));
  parent.append(
    el("div", { class: "bars", role: "img", "aria-label": describe }, ...made),
    el("div", { class: "axis", "aria-hidden": "true" }, ...axis),
    el("span", { class: "most", "aria-hidden": "true" }, count.format(Math.max(...values))),
  );
  return made;
}

let scoreBars = [];

function showScores() {
  const bins = data.totals.scores;
  const first = Math.min(bins.length - 1, Math.floor(data.run.kept * bins.length + 1e-6));
  const values = bins.slice(first);
  const from = (place) => (first + place) / bins.length;
  const sure = values.reduce((sum, value, place) => sum + (from(place) >= 0.75 ? value : 0), 0);
  const total = values.reduce((sum, value) => sum + value, 0);
  const words = `Histogram of ${counted(total, "score", "scores")}; ${total ? percent(sure / total) : 0} percent are 0.75 or more.`;
  const start = from(0);
  const ticks = [start, 0.25, 0.5, 0.75, 1].filter((at, place) => place === 0 || at > start + 0.06)
    .map((at) => [((at - start) / (1 - start)) * 100, at.toFixed(2).replace(/0$/, "")]);
  scoreBars = bars(byId("scores"), values, words, ticks,
    (place) => `${from(place).toFixed(3)} to ${from(place + 1).toFixed(3)}: ${counted(values[place], "detection", "detections")}`)
    .map((bar, place) => ({ bar, until: from(place + 1) }));
}

// The bars that the slider hides are pale.
function dimScores() {
  for (const { bar, until } of scoreBars) bar.classList.toggle("off", until <= state.least + 1e-9);
}

function showPerImage() {
  const all = data.totals.perImage;
  const last = all.length - 1;
  const used = Math.max(...all.map((value, place) => (value ? place : 0)), 4);
  const values = all.slice(0, used + 1);
  const label = (place) => (place === last ? `${last}+` : `${place}`);
  const middle = (place) => ((place + 0.5) / values.length) * 100;
  const step = used > 10 ? 5 : used > 5 ? 2 : 1;
  const ticks = values.map((_, place) => [middle(place), label(place)]).filter((_, place) => place % step === 0);
  const { images, failed, detections } = data.totals;
  const words = `Histogram of detections per image, ${images > failed ? (detections / (images - failed)).toFixed(1) : 0} on average.`;
  bars(byId("per-image"), values, words, ticks,
    (place) => `${label(place)} ${place === 1 ? "detection" : "detections"}: ${counted(values[place], "image", "images")}`);
}

function showClasses(all = false) {
  const most = Math.max(1, ...data.classes.map((one) => one.count));
  const some = all ? seen : seen.slice(0, CLASSES_AT_FIRST);
  const rows = some.map((one, place) => el("li", {}, el("button", {
    type: "button", class: "class", "aria-pressed": "false", "data-class": `${place}`,
    on: { click: () => set({ class: state.class === place ? -1 : place }) },
  },
  name(one.name, { class: "class-name", title: one.name }),
  el("span", { class: "track" }, el("i", { style: { width: `${Math.max(1, (100 * one.count) / most)}%`, background: one.colour } })),
  el("span", { class: "number" }, count.format(one.count)))));
  const list = el("ul", { class: all ? "class-list all" : "class-list" }, ...rows);
  const more = seen.length - some.length;
  const button = more > 0 ? el("button", { type: "button", class: "quiet", on: { click: () => { showClasses(true); pressClasses(); byId("classes").querySelectorAll(".class")[CLASSES_AT_FIRST].focus(); } } },
    `Show ${count.format(more)} more`) : null;
  const nothing = seen.length ? null : el("p", { class: "hint" }, "Nothing was found.");
  byId("classes").replaceChildren(...[list, button, nothing].filter(Boolean));
}

function pressClasses() {
  for (const button of byId("classes").querySelectorAll(".class")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.class) === state.class));
  }
}

function showFailures() {
  const { failed, failures } = data.totals;
  if (!failed) return;
  const lost = cards.filter((card) => card.error);
  byId("failures").hidden = false;
  byId("failures-title").textContent = `${counted(failed, "image", "images")} failed`;
  const reasons = failures.map(([reason, n]) => el("li", {}, name(reason), " ", el("strong", {}, count.format(n))));
  const more = failed > lost.length ? el("p", { class: "hint" }, `${count.format(lost.length)} of them are listed; every reason occurs.`) : null;
  const head = el("tr", {}, ...["Image", "Reason", "Stage", "What was wrong"].map((text) => el("th", { scope: "col" }, text)));
  const rows = lost.map((card) => el("tr", {}, el("td", {}, name(card.name)), el("td", {}, name(card.error.type)),
    el("td", {}, name(card.error.stage)), el("td", {}, name(card.error.text))));
  const table = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Failed images" },
    el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
  byId("failures-body").append(el("ul", { class: "reasons" }, ...reasons), ...[more, table].filter(Boolean));
}
