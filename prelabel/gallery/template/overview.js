// Shows totals, histograms and failures of the whole run at the top of the page.

const CLASSES_AT_FIRST = 8;
const DETECTIONS = ["detection", "detections"];
const IMAGES = ["image", "images"];

function showRun() {
  const { run } = data;
  const parts = [run.version || run.detector];
  const date = run.created ? new Date(run.created) : null;
  if (date && !Number.isNaN(date.getTime())) parts.push(date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }));
  if (run.id) parts.push(`run ${run.id.slice(0, 8)}`);
  parts.push(`scores ${run.selection}`);
  byId("run").append(...parts.map((text) => el("span", {}, name(text))), el("strong", { id: "run-score", hidden: true }));
  document.title = `Preview of ${run.version || run.detector}`;
}

// The classes that occur at a score. Those that only the slider reveals come last in `data.classes`.
const classesAt = (score) => data.classes.flatMap((_, classNumber) => (classCount(classNumber, score) ? [classNumber] : []));

const detectionsAt = (score) => data.classes.reduce((sum, _, classNumber) => sum + classCount(classNumber, score), 0);

const STATUS_TITLES = { all: "Show all images", found: "Show images with detections", empty: "Show images without detections", failed: "Show failed images" };

// The tiles: an id, what it counts, and the status that a click shows.
const TILES = [["images", IMAGES, "all"], ["detections", DETECTIONS, "found"], ["classes", ["class", "classes"], null],
  ["empty", ["no detections", "no detections"], "empty"], ["failed", ["failed", "failed"], "failed"]];

function makeTiles() {
  byId("tiles").append(...TILES.map(([id, , status]) => {
    const content = [el("strong"), el("span"), el("small")];
    const go = () => { set({ status }); byId("count").scrollIntoView({ block: "nearest" }); };
    return el("li", { id: `tile-${id}` }, status ? el("button", { type: "button", title: STATUS_TITLES[status], on: { click: go } }, ...content) : el("div", {}, ...content));
  }));
}

// Counts the whole run at the score of the slider.
function showTiles() {
  const { images, failed, perImage } = data.totals;
  const labeled = images - failed;
  const detections = detectionsAt(state.score);
  const [empty] = valueAt(perImage, state.score);
  showTile("images", images, images, "");
  showTile("detections", detections, detectionsAt(baseScore()), labeled ? `${(detections / labeled).toFixed(1)} per image` : "");
  showTile("classes", classesAt(state.score).length, classesAt(baseScore()).length, "");
  showTile("empty", empty, empty, share(empty, images));
  showTile("failed", failed, failed, share(failed, images));
  byId("tile-failed").classList.toggle("bad", failed > 0);
}

function showTile(id, value, total, detail) {
  const [content] = byId(`tile-${id}`).children;
  const [figure, label, small] = content.children;
  const [singular, plural] = TILES.find(([tile]) => tile === id)[1];
  label.textContent = total === 1 ? singular : plural;
  figure.replaceChildren(number.format(value), value < total ? el("i", {}, ` of ${number.format(total)}`) : "");
  small.textContent = detail;
  if (content.matches("button")) content.disabled = !value;
}

function share(part, whole) {
  if (!whole || !part) return "";
  const value = (100 * part) / whole;
  return `${value < 0.1 ? "< 0.1" : value.toFixed(value < 10 ? 1 : 0)} % of images`;
}

// A histogram with vertical bars.
// values: the height of each bar; unit: what the values count; description: text for screen readers; ticks: [percent
// from the left, text]; axis: the title of the horizontal axis; title: the tooltip of a bar, by its number.
function histogram(parent, { values, unit, description, ticks, axis, title }) {
  const most = Math.max(1, ...values);
  const bars = values.map((value, bin) =>
    el("span", { class: "bar", title: title(bin) }, el("i", { style: { height: `${value ? Math.max(2, (100 * value) / most) : 0}%` } })));
  const tickLabels = ticks.map(([left, text]) => el("span", { style: { left: `${left}%` } }, text));
  parent.append(
    el("div", { class: "bars", role: "img", "aria-label": description }, ...bars),
    el("div", { class: "axis", "aria-hidden": "true" }, ...tickLabels),
    el("div", { class: "axis-title", "aria-hidden": "true" }, axis),
    el("span", { class: "most", "aria-hidden": "true" }, `up to ${counted(Math.max(...values), ...unit)}`),
  );
  return bars;
}

let scoreBars = [];

function makeScores() {
  const bins = data.totals.scores;
  const all = bins.reduce((sum, value) => sum + value, 0);
  const sure = bins.reduce((sum, value, bin) => sum + (bin / bins.length >= 0.75 ? value : 0), 0);
  // The axis starts at a tenth, so that its ticks are round.
  const start = Math.min(Math.floor(LOWEST * 10 + 1e-6), 9) / 10;
  const first = Math.round(start * bins.length);
  const values = bins.slice(first);
  const from = (bin) => (first + bin) / bins.length;
  const tenths = Array.from({ length: 11 }, (_, tenth) => tenth / 10).filter((score) => score >= start);
  const ticks = tenths.map((score) => [((score - start) / (1 - start)) * 100, String(score)]);
  const bars = histogram(byId("scores"), {
    values, ticks, unit: DETECTIONS, axis: "score (click a bar to hide lower scores)",
    description: `Histogram of ${counted(all, "score", "scores")}; ${all ? percent(sure / all) : 0} percent are 0.75 or more.`,
    title: (bin) => `Score ${from(bin).toFixed(2)} to ${from(bin + 1).toFixed(2)}: ${counted(values[bin], ...DETECTIONS)}. Click to show scores of ${from(bin).toFixed(2)} and more.`,
  });
  scoreBars = bars.map((bar, bin) => ({ bar, until: from(bin + 1) }));
  bars.forEach((bar, bin) => {
    const score = Math.max(LOWEST, hundredths(from(bin)));
    // A second click undoes the first.
    bar.addEventListener("click", () => set({ score: state.score === score ? START : score }));
  });
}

// Bars below the slider are pale.
function dimScores() {
  for (const { bar, until } of scoreBars) bar.classList.toggle("off", until <= state.score + 1e-9);
}

function showPerImage() {
  const counts = valueAt(data.totals.perImage, state.score);
  const last = counts.length - 1;
  // The axis stays the same while the slider hides detections.
  const used = Math.max(...valueAt(data.totals.perImage, baseScore()).map((value, bin) => (value ? bin : 0)), 4);
  const values = counts.slice(0, used + 1);
  const label = (bin) => (bin === last ? `${last}+` : `${bin}`);
  const middle = (bin) => ((bin + 0.5) / values.length) * 100;
  const step = used > 10 ? 5 : used > 5 ? 2 : 1;
  const ticks = values.map((_, bin) => [middle(bin), label(bin)]).filter((_, bin) => bin % step === 0);
  const labeled = data.totals.images - data.totals.failed;
  byId("per-image").replaceChildren();
  histogram(byId("per-image"), {
    values, ticks, unit: IMAGES, axis: "detections per image",
    description: `Histogram of detections per image, ${labeled ? (detectionsAt(state.score) / labeled).toFixed(1) : 0} on average.`,
    title: (bin) => `${label(bin)} ${bin === 1 ? "detection" : "detections"}: ${counted(values[bin], ...IMAGES)}`,
  });
}

const classList = { numbers: [], all: false };

// Lists the classes that the options keep and those that the slider reveals, with their counts at its score.
function showClasses() {
  const present = classesAt(baseScore());
  const listed = classList.all ? present : present.slice(0, CLASSES_AT_FIRST);
  const totals = new Map(present.map((classNumber) => [classNumber, classCount(classNumber, baseScore())]));
  // Rows stay while only their counts change, and with them the focus.
  if (String(listed) !== String(classList.numbers)) makeClassList(listed);
  byId("classes-more").hidden = listed.length === present.length;
  byId("classes-more").textContent = `Show ${number.format(present.length - listed.length)} more`;
  byId("classes-none").hidden = present.length > 0;
  const most = Math.max(1, ...totals.values());
  const width = (count) => `${count ? Math.max(1, (100 * count) / most) : 0}%`;
  // Room for the longest "N of M", so that the bars keep their length while the slider moves.
  byId("classes").style.setProperty("--number", `${2 * number.format(most).length + 3}ch`);
  for (const row of byId("classes").querySelectorAll(".class")) {
    const classNumber = Number(row.dataset.class);
    const count = classCount(classNumber);
    row.title = `${data.classes[classNumber].name}: ${ofTotal(count, totals.get(classNumber))} ${totals.get(classNumber) === 1 ? "detection" : "detections"}`;
    const [paleBar, bar] = row.querySelector(".track").children;
    paleBar.style.setProperty("width", width(totals.get(classNumber)));
    bar.style.setProperty("width", width(count));
    row.querySelector(".number").textContent = ofTotal(count, totals.get(classNumber));
  }
}

function makeClassList(classNumbers) {
  classList.numbers = classNumbers;
  const rows = classNumbers.map((classNumber) => {
    const { name: className, color } = data.classes[classNumber];
    return el("li", {}, el("button", { type: "button", class: "class", "data-class": `${classNumber}`, on: { click: () => toggleClass(classNumber) } },
      name(className, { class: "class-name" }), el("span", { class: "track" }, el("i", { class: "pale", style: { background: color } }), el("i", { style: { background: color } })), el("span", { class: "number" })));
  });
  byId("classes").replaceChildren(el("ul", { class: classList.all ? "class-list all" : "class-list" }, ...rows));
}

function showAllClasses() {
  classList.all = true;
  showClasses();
  pressClasses();
  byId("classes").querySelectorAll(".class")[CLASSES_AT_FIRST].focus();
}

function pressClasses() {
  for (const button of byId("classes").querySelectorAll(".class")) {
    button.setAttribute("aria-pressed", String(state.classes.has(Number(button.dataset.class))));
  }
}

function showFailures() {
  const { failed, failures } = data.totals;
  if (!failed) return;
  const listed = cards.filter((card) => card.error);
  byId("failures").hidden = false;
  byId("failures-title").textContent = `${counted(failed, ...IMAGES)} failed`;
  const reasons = failures.map(([reason, count]) => el("li", {}, name(reason), " ", el("strong", {}, number.format(count))));
  const more = failed > listed.length ? el("p", { class: "hint" }, `${number.format(listed.length)} of them are listed; every reason occurs.`) : null;
  const head = el("tr", {}, ...["Image", "Error", "Stage", "Message"].map((text) => el("th", { scope: "col" }, text)));
  const rows = listed.map((card) => el("tr", {}, el("td", {}, name(card.name)), el("td", {}, name(card.error.type)),
    el("td", {}, name(card.error.stage)), el("td", {}, name(card.error.text))));
  const table = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Failed images" },
    el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
  byId("failures-body").append(el("ul", { class: "reasons" }, ...reasons), ...[more, table].filter(Boolean));
}
